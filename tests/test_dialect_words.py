"""The dialects' words: bodies of fal's, OpenAI's and A1111's clients become orders, and replies have their schemas."""

import base64
import json
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sotediffusion.serve.doors import a1111, a1111_lists, a1111_orders, fal, fal_orders, fal_proxy, fal_replies, openai
from sotediffusion.serve.doors.endings import ending
from sotediffusion.serve.doors.forms import picture_in, read
from sotediffusion.serve.gateway import Lora
from sotediffusion.serve.menu import Menu, Offer
from sotediffusion.serve.storage.jobs import Failure, Job, JobState, Progress, StoredPicture, pack
from sotediffusion.serve.walls.problems import Problem, Trouble, trouble_of
from sotediffusion.types import Request, UserError

HASH = "0123abcdef" + "0" * 54
MODELS = {"sote": Offer("sote", "/secret/place", hashes={"stage_c": HASH}), "other": Offer("other", "/place")}
MENU = Menu(MODELS, ("ddpm",), ("default",))
REQUEST = Request("1girl", "oldest", 1024, 1536, 25, 8.0, seed=42)
JOB = Job("ab" * 16, "local", pack(REQUEST), "sote", origin="fal", created=100.0)
DONE = replace(
    JOB, state=JobState.SUCCEEDED, started=101.0, finished=103.5,
    pictures=(StoredPicture("ab/x.png", 1024, 1536, 42, info={"prompt": "1girl", "steps": 25, "seed": 42}),),
)  # fmt: skip
FAILED = replace(JOB, state=JobState.FAILED, error=Failure("worker_died", "it brought its worker down"), finished=104.0)


def body_of(response):
    return json.loads(response.body)


def png(size=(8, 8), **info):
    file = BytesIO()
    Image.new("RGB", size).save(file, "png", **info)
    return file.getvalue()


# fal


def test_fal_fills_in_its_own_defaults_for_each_endpoint():
    plain = fal_orders.request_of(read(fal_orders.CascadeForm, {"prompt": "a"}))
    assert plain == Request("a", "", 1024, 1024, steps=20, guidance=4.0, decoder_steps=10, decoder_guidance=0.0)
    sote = fal_orders.request_of(read(fal_orders.SoteForm, {"prompt": "a"}))
    assert sote == Request("a", "", 1024, 1536, steps=25, guidance=8.0, decoder_steps=10, decoder_guidance=2.0)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ("square_hd", (1024, 1024)), ("square", (512, 512)), ("portrait_4_3", (768, 1024)), ("portrait_16_9", (576, 1024)),
        ("landscape_4_3", (1024, 768)), ("landscape_16_9", (1024, 576)),
        ({}, (512, 512)), ({"width": 1001}, (1008, 512)), ({"width": 2048, "height": 1152}, (2048, 1152)),
    ],
)  # fmt: skip
def test_fal_sizes_are_presets_or_numbers_that_round_up_to_eight(size, drawn):
    request = fal_orders.request_of(read(fal_orders.SoteForm, {"prompt": "a", "image_size": size}))
    assert (request.width, request.height) == drawn


@pytest.mark.parametrize(
    ("form", "body", "where", "kind"),
    [
        (fal_orders.SoteForm, {}, ["prompt"], "missing"),
        (fal_orders.SoteForm, {"prompt": "a", "first_stage_steps": 51}, ["first_stage_steps"], "less_than_equal"),
        (fal_orders.CascadeForm, {"prompt": "a", "first_stage_steps": 41}, ["first_stage_steps"], "less_than_equal"),
        (fal_orders.SoteForm, {"prompt": "a", "first_stage_steps": 3}, ["first_stage_steps"], "greater_than_equal"),
        (fal_orders.SoteForm, {"prompt": "a", "second_stage_steps": 25}, ["second_stage_steps"], "less_than_equal"),
        (fal_orders.SoteForm, {"prompt": "a", "guidance_scale": 20.5}, ["guidance_scale"], "less_than_equal"),
        (fal_orders.SoteForm, {"prompt": "a", "second_stage_guidance_scale": -1}, ["second_stage_guidance_scale"],
         "greater_than_equal"),
        (fal_orders.SoteForm, {"prompt": "a", "num_images": 5}, ["num_images"], "less_than_equal"),
        (fal_orders.SoteForm, {"prompt": "a", "image_size": {"width": 14143}}, ["image_size", "ImageSize", "width"],
         "less_than_equal"),
        (fal_orders.SoteForm, {"prompt": 3}, ["prompt"], "string_type"),
    ],
)  # fmt: skip
def test_fal_refuses_what_is_out_of_its_ranges_in_its_own_shape(form, body, where, kind):
    with pytest.raises(Problem) as caught:
        read(form, body)
    response = fal.problem(caught.value.trouble)
    assert response.status_code == 422
    found = [fault for fault in body_of(response)["detail"] if fault["type"] == kind]
    assert [fault["loc"] for fault in found] == [["body", *where]] and found[0]["msg"]


def test_fal_names_the_field_as_the_caller_gave_it_and_marks_what_the_policy_refused():
    told = body_of(fal.problem(trouble_of(UserError("decoder_steps", "3 is too few"))))
    assert told == {"detail": [{"loc": ["body", "second_stage_steps"], "msg": "3 is too few", "type": "value_error"}]}
    refused = UserError("prompt", f"{fal_replies.RULE} (loli); ask for something else")
    assert body_of(fal.problem(trouble_of(refused)))["detail"][0]["type"] == "content_policy_violation"


def test_fal_tells_what_is_not_in_the_body_by_words_and_a_type():
    assert fal.problem(trouble_of(UserError("start_s", "9e9 is out of range"))).status_code == 400
    response = fal.problem(trouble_of(UserError("webhook", "this server tells no webhooks")))
    assert response.status_code == 400 and response.headers["x-fal-error-type"] == "bad_request"
    assert body_of(response) == {"detail": "this server tells no webhooks", "error_type": "bad_request"}
    late = fal.problem(fal_replies.trouble_of_job(replace(JOB, state=JobState.EXPIRED, finished=200.0)))
    assert (late.status_code, late.headers["x-fal-request-timeout-type"]) == (504, "user")
    assert body_of(late)["error_type"] == "request_timeout" and late.headers["x-fal-request-id"] == JOB.id
    full = fal.problem(Trouble(429, "queue_full", "many jobs wait", headers={"Retry-After": "7"}))
    assert (full.status_code, full.headers["retry-after"]) == (429, "7")


def test_fal_status_bodies_have_the_keys_that_its_clients_read():
    base = "http://host/fal/queue/fal-ai/stable-cascade"
    place = f"{base}/requests/{JOB.id}"
    named = {"request_id": JOB.id, "response_url": place, "status_url": f"{place}/status", "cancel_url": f"{place}/cancel"}
    assert fal_replies.status_of(JOB, 3, base, False) == {"status": "IN_QUEUE", **named, "queue_position": 3}
    running = replace(JOB, state=JobState.RUNNING, started=101.0, progress=Progress("stage c", 5, 35, 2.0))
    assert fal_replies.status_of(running, None, base, False) == {"status": "IN_PROGRESS", **named, "logs": None}
    line = fal_replies.status_of(running, None, base, True)["logs"][0]
    assert line == {"message": "stage c: step 5 of 35", "level": "INFO", "source": "USER",
                    "timestamp": "1970-01-01T00:01:41+00:00"}  # fmt: skip
    done = {"status": "COMPLETED", **named, "logs": None, "metrics": {"inference_time": 2.5}}
    assert fal_replies.status_of(DONE, None, base, False) == done
    failed = fal_replies.status_of(FAILED, None, base, False)
    assert failed["status"] == "COMPLETED" and failed["error_type"] == "runner_server_error" and failed["error"]


def test_a_job_that_did_not_begin_in_time_is_told_from_one_that_its_client_cancelled():
    cancelled = replace(JOB, state=JobState.CANCELLED, finished=120.0)
    assert fal_replies.trouble_of_job(cancelled).status == 499
    late = replace(JOB, state=JobState.EXPIRED, error=Failure("deadline", "it did not begin in time"))
    trouble = fal_replies.trouble_of_job(late)
    assert trouble.status == 504 and trouble.message == "it did not begin in time; give it more time"


@given(st.booleans(), st.booleans(), st.text())
def test_what_a_reply_must_know_survives_in_the_origin(sync, checked, base):
    memo = fal_orders.Memo(sync, checked, base)
    job = replace(JOB, origin=memo.words())
    assert fal_orders.Memo.of(job) == memo and fal_orders.is_ours(job)
    assert not fal_orders.is_ours(replace(JOB, origin="own"))


def test_the_proxy_knows_two_hosts_and_no_way_out_of_their_paths():
    path = "/fal-ai/stable-cascade/requests/x"
    assert fal_proxy.local_path(f"https://queue.fal.run{path}?logs=1") == (f"/fal/queue{path}", "logs=1")
    assert fal_proxy.local_path(f"https://fal.run{path}") == (f"/fal/run{path}", "")
    wrong = ["http://fal.run", "https://evil.fal.run", "https://fal.run@evil", "https://fal.run:444", "https://rest.fal.ai",
             "https://fal.run.evil", "ftp://fal.run", "https://[", "https://fal.run/.."]  # fmt: skip
    for target in [f"{host}{path}" for host in wrong] + ["", "https://fal.run/api/v1/jobs", f"https://fal.run{path}/%2e%2e/x"]:
        with pytest.raises(Problem) as caught:
            fal_proxy.local_path(target)
        assert caught.value.trouble.status == 412, target
    with pytest.raises(Problem) as caught:
        fal_proxy.local_path(None)
    assert caught.value.trouble.status == 400


# OpenAI


def test_openai_draws_with_the_cards_settings_what_says_nothing_else():
    assert openai.ask_of(read(openai.ImagesForm, {"prompt": "a"})).request == Request("a")


def test_openai_takes_our_fields_beside_its_own_and_leaves_its_hints_alone():
    body = {"prompt": "a", "n": 3, "size": "1001x1500", "quality": "hd", "style": "vivid", "user": "x", "moderation": "low",
            "negative_prompt": "b", "seed": 5, "num_inference_steps": 20, "guidance_scale": 5, "decoder_steps": 8,
            "loras": [{"name": "ink", "weight": 0.5}]}  # fmt: skip
    ask = openai.ask_of(read(openai.ImagesForm, body))
    assert ask.request == Request("a", "b", 1008, 1504, 20, 5.0, 8, seed=5, count=3) and ask.loras == (Lora("ink", 0.5),)
    same = read(openai.ImagesForm, {"prompt": "a", "steps": 20, "guidance": 5})
    assert (same.steps, same.guidance) == (20, 5.0)


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "prompt"), ({"prompt": "a", "n": 11}, "n"), ({"prompt": "a", "n": 0}, "n"), ({"prompt": "a", "size": "big"}, "size"),
     ({"prompt": "a", "size": "0x64"}, "size"), ({"prompt": "a", "output_format": "gif"}, "output_format"),
     ({"prompt": "a", "partial_images": 4}, "partial_images"), ({"prompt": "a", "background": "transparent"}, "background")],
)  # fmt: skip
def test_openai_errors_are_400_with_the_parameter(body, param):
    with pytest.raises(Problem) as caught:
        openai.ask_of(read(openai.ImagesForm, body))
    response = openai.problem(caught.value.trouble)
    error = body_of(response)["error"]
    if param != "size":
        assert response.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_openai_tells_a_picture_too_large_by_422_and_other_faults_by_400():
    assert openai.problem(trouble_of(UserError("size", "9000x9000 has too many pixels"))).status_code == 422
    response = openai.problem(trouble_of(UserError("negative", "too long")))
    assert (response.status_code, body_of(response)["error"]["param"]) == (400, "negative_prompt")
    limited = openai.problem(Trouble(429, "queue_full", "full", headers={"Retry-After": "3"}))
    assert (limited.headers["retry-after"], body_of(limited)["error"]["type"]) == ("3", "rate_limit_error")


# A1111 and SD.Next


def ask_a1111(**body):
    return a1111_orders.ask_of(read(a1111_orders.DrawForm, {"prompt": "a", **body}), MENU, "sote")


def test_a1111_draws_with_the_cards_settings_what_says_nothing_else():
    assert ask_a1111().request == Request("a") and ask_a1111().model == "sote"


def test_sdnexts_words_for_both_stages_reach_them():
    request = ask_a1111(steps=33, cfg_scale=6.5, refiner_steps=12, cfg_image=1.5, seed=9, batch_size=2, n_iter=3).request
    assert request == Request("a", "", None, None, 33, 6.5, 12, 1.5, seed=9, count=6)
    assert ask_a1111(seed=-1, refiner_steps=None, width=500, height=300).request == Request("a", "", 504, 304)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "ours"),
    [("Euler a", "automatic", ("euler_ancestral", "default")), ("DPM++ 2M Karras", None, ("dpmpp_2m", "karras")),
     ("DPM++ 2M", "sgm_uniform", ("dpmpp_2m", "sgm_uniform")), ("Default", "SGM Uniform", ("ddpm", "sgm_uniform")),
     (None, None, ("ddpm", "default"))],
)  # fmt: skip
def test_a1111_names_of_samplers_and_schedulers_are_known(sampler, scheduler, ours):
    request = ask_a1111(sampler_name=sampler, scheduler=scheduler).request
    assert (request.sampler, request.schedule) == ours


@pytest.mark.parametrize(
    ("body", "field"),
    [({"sampler_name": "Heun"}, "sampler_name"), ({"scheduler": "beta"}, "scheduler"), ({"enable_hr": True}, "enable_hr"),
     ({"script_name": "x/y/z plot"}, "script_name"), ({"tiling": True}, "tiling"), ({"restore_faces": True}, "restore_faces"),
     ({"subseed": 7, "subseed_strength": 0.2}, "subseed_strength"),
     ({"override_settings": {"sd_model_checkpoint": "none"}}, "sd_model_checkpoint"),
     ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "alwayson_scripts"), ({"prompt": "<lora:x:much>"}, "prompt"),
     ({"alwayson_scripts": {"x": {"args": 3}}}, "alwayson_scripts")],
)  # fmt: skip
def test_what_cannot_be_done_for_a1111_is_refused_in_words(body, field):
    with pytest.raises(UserError) as caught:
        ask_a1111(**body)
    assert caught.value.field == field
    told = a1111.problem(trouble_of(caught.value))
    assert told.status_code == 422 and body_of(told)["detail"].startswith(f"{field}: ")


def test_what_asks_for_nothing_is_no_hindrance():
    idle = {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}, "x": {}, "y": None}
    off = {"enable_hr": False, "script_name": "", "restore_faces": False, "tiling": None, "subseed": -1, "subseed_strength": 0}
    ask = ask_a1111(alwayson_scripts=idle, hr_scale=2, **off)
    assert ask.request == Request("a")


@pytest.mark.parametrize("title", ["sote", "sote [0123abcdef]", "sote.safetensors [0123abcdef]", "0123abcdef", HASH])
def test_a_model_is_found_by_title_name_file_and_hash(title):
    assert a1111_orders.model_of(title, MENU) == "sote"
    assert ask_a1111(override_settings={"sd_model_checkpoint": "other"}).model == "other"


def test_a_styles_lora_tag_becomes_a_lora_too():
    form = read(a1111_orders.DrawForm, {"prompt": "a", "styles": ["Ink", "Soft"]})
    ink = {"name": "Ink", "prompt": "{prompt} <lora:ink:0.8>", "negative": ""}
    styles = [ink, {"name": "Soft", "prompt": "soft", "negative": "hard"}]
    ask = a1111_orders.ask_of(a1111_orders.styled(form, styles), MENU, "sote")
    assert (ask.request.prompt, ask.request.negative) == ("a , soft", "hard") and ask.loras == (Lora("ink", 0.8),)


def test_lora_tags_leave_the_prompt_and_become_loras():
    ask = ask_a1111(prompt="<lora:ink:0.8> 1girl, <lora:fine brush> cat ears <lora:wet:0.5:0.2>")
    assert ask.request.prompt == "1girl,  cat ears" and ask.loras == (Lora("ink", 0.8), Lora("fine brush", 1.0), Lora("wet", 0.5))


def test_a_picture_comes_as_base64_or_as_a_data_url_and_never_by_address():
    content = png()
    text = base64.b64encode(content).decode()
    for sent in (text, f"data:image/png;base64,{text}"):
        form = read(a1111_orders.DrawForm, {"init_images": [sent], "denoising_strength": 0.4})
        assert a1111_orders.start_of(form) == (content, 0.4)
    for sent in ("http://169.254.169.254/x", "data:text/html;base64,PGI+", "data:image/png,xx", "not base64!", "é"):
        with pytest.raises(UserError):
            picture_in(sent, "init_images")
    with pytest.raises(UserError):
        a1111_orders.start_of(read(a1111_orders.DrawForm, {"init_images": [text], "mask": text}))


def test_a1111s_reply_holds_the_info_as_text_and_repeats_no_pictures():
    body = {"prompt": "1girl", "steps": 25, "mask": "aaaa", "init_images": ["x"], "styles": [], "odd": "\ud800"}
    reply = json.loads(a1111_orders.reply_of(DONE, ["aGk="], body, MENU, ()))
    assert reply["images"] == ["aGk="] and reply["parameters"] == {"prompt": "1girl", "steps": 25, "odd": "\ud800"}
    info = json.loads(reply["info"])
    assert info["all_seeds"] == [42] and (info["width"], info["height"], info["steps"]) == (1024, 1536, 25)
    assert info["infotexts"] == ["1girl\nSteps: 25, Seed: 42"] and info["sd_model_hash"] == "0123abcdef"
    assert info["sampler_name"] == "Default" and info["job_timestamp"] == "19700101000140"


def test_a1111s_progress_goes_from_nothing_over_the_steps_of_both_stages():
    assert a1111_orders.progress_of([], None)["progress"] == 0.0
    waiting = a1111_orders.progress_of([JOB], None)
    assert waiting["progress"] == 0.0 and waiting["state"]["job_count"] == 1
    running = replace(JOB, state=JobState.RUNNING, progress=Progress("stage c", 10, 40, 3.0))
    told = a1111_orders.progress_of([running, JOB], "aGk=")
    assert (told["progress"], told["eta_relative"], told["current_image"]) == (0.25, 3.0, "aGk=")
    assert (told["state"]["sampling_step"], told["state"]["sampling_steps"], told["state"]["job_count"]) == (10, 40, 2)


def test_the_lists_of_models_tell_no_place_on_the_disk():
    assert a1111_lists.sd_models(MENU)[0] == {
        "title": "sote [0123abcdef]", "model_name": "sote", "hash": "0123abcdef", "sha256": HASH, "filename": "sote",
        "config": None,
    }  # fmt: skip
    assert "/secret" not in json.dumps([a1111_lists.sd_models(MENU), a1111_lists.options(MENU, "sote")])


def test_png_info_reads_what_a1111_wrote_and_refuses_what_is_no_picture():
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    text = "1girl\nNegative prompt: oldest\nSteps: 30, Sampler: Euler a, CFG scale: 7, Seed: 1"
    chunks.add_text("parameters", text)
    told = a1111_lists.png_info(png(pnginfo=chunks))
    assert told["info"] == text and told["items"]["parameters"] == text
    assert told["parameters"]["Prompt"] == "1girl" and told["parameters"]["CFG scale"] == "7"
    assert a1111_lists.png_info(png())["info"] == ""
    for content in (b"", b"GIF89a", png()[:40]):
        with pytest.raises(UserError):
            a1111_lists.png_info(content)


# All


def test_a_failure_is_the_callers_where_a_field_of_its_own_is_to_blame():
    assert ending(DONE) is None and ending(FAILED).status == 500
    field = replace(FAILED, error=Failure("size", "size: the server's memory is not enough"))
    trouble = ending(field)
    assert (trouble.status, trouble.field, trouble.message) == (422, "size", "the server's memory is not enough")
    assert ending(replace(DONE, pictures=())).status == 410


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("form", "ask", "dialect"),
    [(fal_orders.SoteForm, fal_orders.ask_of, fal), (openai.ImagesForm, openai.ask_of, openai),
     (a1111_orders.DrawForm, lambda form: a1111_orders.ask_of(form, MENU, "sote"), a1111)],
)  # fmt: skip
@given(data=st.data())
def test_any_body_becomes_an_order_or_an_error_that_can_be_sent(form, ask, dialect, data):
    names = [*form.model_fields, "guidance_scale", "steps"]
    body = data.draw(st.dictionaries(st.sampled_from(names), json_values, max_size=5))
    try:
        ask(read(form, {"prompt": "a"} | body))
    except (Problem, UserError) as error:
        response = dialect.problem(trouble_of(error))
        assert 400 <= response.status_code < 500
        json.loads(response.body)
        assert not isinstance(error, ValidationError)
