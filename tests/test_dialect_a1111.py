"""A1111's and SD.Next's API over a real connection: drawing, watching, interrupting, and an answer to each of their questions."""

import base64
import json
import threading
import time
from io import BytesIO

import pytest
from drawing import drawing
from PIL import Image
from web import Site, png, quick_folder, site

from sotediffusion.pictures.files import encode_picture
from sotediffusion.serve.storage.jobs import LOCAL, JobState
from sotediffusion.serve.walls.admission import Bounds
from sotediffusion.types import Picture

ROOT = "/sdapi/v1"
ASK = {"prompt": "1girl, cat ears", "negative_prompt": "oldest", "width": 60, "height": 60, "seed": 3, "steps": 12}


@pytest.fixture(scope="module")
def shared():
    with quick_folder() as folder, site(folder, bounds=Bounds(pixels=512 * 512)) as made:
        yield made


def post(made: Site, path: str, **body):
    return made.client.post(f"{ROOT}/{path}", json=body)


def get(made: Site, path: str):
    reply = made.client.get(f"{ROOT}/{path}")
    assert reply.status_code == 200, reply.text
    return reply.json()


def wait_for(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def test_txt2img_gives_pngs_with_their_parameters_and_an_info_that_is_text(shared):
    with drawing(shared):
        said = post(shared, "txt2img", **ASK, batch_size=2, sampler_name="Euler a", refiner_steps=6, cfg_image=1.5).json()
    info = json.loads(said["info"])
    assert info["all_seeds"] == [3, 4] and (info["width"], info["height"], info["sampler_name"]) == (64, 64, "Euler a")
    assert info["extra_generation_params"] == {"Refiner steps": 6, "Decoder CFG scale": 1.5}
    assert said["parameters"]["steps"] == 12 and len(info["infotexts"]) == 2
    for text in said["images"]:
        with Image.open(BytesIO(base64.b64decode(text))) as image:
            assert image.format == "PNG" and image.info["parameters"].startswith("1girl, cat ears")


def test_pictures_can_be_left_out_or_come_in_another_format(shared):
    with drawing(shared):
        assert post(shared, "txt2img", **ASK, send_images=False).json()["images"] == []
        (text,) = post(shared, "txt2img", **ASK, override_settings={"samples_format": "jpg"}).json()["images"]
    with Image.open(BytesIO(base64.b64decode(text))) as image:
        assert image.format == "JPEG"


def test_img2img_starts_from_a_picture_and_says_that_nobody_checked_it(shared):
    init = base64.b64encode(png()).decode()
    with drawing(shared):
        reply = post(shared, "img2img", **ASK, init_images=[init], denoising_strength=0.4)
    assert reply.status_code == 200, reply.text
    info = json.loads(reply.json()["info"])
    assert info["denoising_strength"] == 0.4 and "no image check ran" in info["comments"][0]
    assert reply.headers["x-sote-image-check"] == "none"
    job = shared.store.find(LOCAL, limit=1)[0]
    assert job.request["strength"] == 0.4 and shared.shelf.read(job.request["init"]) == png()
    for wrong in ([], [init, init], ["http://127.0.0.1/x.png"], ["aGk="]):
        assert post(shared, "img2img", **ASK, init_images=wrong).status_code == 422


def test_progress_and_interrupt_are_about_the_callers_own_picture(shared):
    assert get(shared, "progress")["state"]["job_count"] == 0
    replies = []
    thread = threading.Thread(target=lambda: replies.append(post(shared, "txt2img", **ASK)))
    thread.start()
    wait_for(lambda: get(shared, "progress")["state"]["job_count"] == 1)
    hand = shared.hand
    hand.tell(hand.take(), 10, preview=True)
    said = get(shared, "progress")
    assert said["progress"] == 0.25 and said["eta_relative"] == 1.5 and said["state"]["sampling_steps"] == 40
    with Image.open(BytesIO(base64.b64decode(said["current_image"]))) as image:
        assert image.format == "JPEG"
    assert get(shared, "progress?skip_current_image=true")["current_image"] is None
    interrupted = post(shared, "interrupt")
    assert (interrupted.status_code, interrupted.json()) == (200, {})
    thread.join(20)
    assert replies[0].status_code == 200 and replies[0].json()["images"] == []
    assert get(shared, "progress")["progress"] == 0.0


def test_interrupting_leaves_jobs_of_other_doors_alone(shared):
    id = shared.submit()["id"]
    assert post(shared, "interrupt").json() == {} and post(shared, "skip").json() == {}
    assert shared.store.get(id).state == JobState.QUEUED
    assert get(shared, "progress")["state"]["job_count"] == 0
    shared.store.cancel(id)


def test_interrupting_ends_what_runs_and_leaves_what_waits(shared):
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(post(shared, "txt2img", **ASK))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: get(shared, "progress")["state"]["job_count"] == 2)
    shared.hand.take()
    post(shared, "interrupt")
    wait_for(lambda: len(replies) == 1)
    assert replies[0].json()["images"] == [] and get(shared, "progress")["state"]["job_count"] == 1
    shared.hand.draw()
    for thread in threads:
        thread.join(20)
    assert len(replies[1].json()["images"]) == 1


def test_settings_that_do_not_exist_here_hinder_no_order_and_are_named_in_the_reply(shared):
    with drawing(shared):
        reply = post(shared, "txt2img", **ASK, override_settings={"samples_format": "png", "CLIP_stop_at_last_layers": 2})
    (comment,) = json.loads(reply.json()["info"])["comments"]
    assert "CLIP_stop_at_last_layers" in comment and "samples_format" not in comment
    assert "x-sote-image-check" not in reply.headers


@pytest.mark.parametrize(
    "path",
    ["sd-models", "samplers", "schedulers", "sd-vae", "upscalers", "latent-upscale-modes", "loras", "embeddings", "prompt-styles",
     "memory", "cmd-flags", "scripts", "options", "progress", "hypernetworks", "face-restorers", "realesrgan-models"],
)  # fmt: skip
def test_every_question_has_a_well_formed_answer(shared, path):
    said = get(shared, path)
    keys = {
        "sd-models": {"title", "model_name", "hash", "sha256", "filename", "config"}, "samplers": {"name", "aliases", "options"},
        "schedulers": {"name", "label", "aliases", "default_rho", "need_inner_model"}, "scripts": {"txt2img", "img2img"},
        "embeddings": {"loaded", "skipped"}, "memory": {"ram", "cuda"},
        "progress": {"progress", "eta_relative", "state", "current_image", "textinfo"},
    }  # fmt: skip
    if path in keys:
        assert set(said[0] if isinstance(said, list) else said) == keys[path]


def test_the_model_is_chosen_for_one_order_or_for_all_that_name_none(shared):
    titles = [model["title"] for model in get(shared, "sd-models")]
    assert get(shared, "options")["sd_model_checkpoint"] == titles[0]
    with drawing(shared):
        once = {"sd_model_checkpoint": titles[1]}
        assert json.loads(post(shared, "txt2img", **ASK, override_settings=once).json()["info"])["sd_model_name"] == "other"
        assert json.loads(post(shared, "txt2img", **ASK).json()["info"])["sd_model_name"] == "tiny"
        assert post(shared, "options", sd_model_checkpoint=titles[1], CLIP_stop_at_last_layers=2).json() is None
        assert json.loads(post(shared, "txt2img", **ASK).json()["info"])["sd_model_name"] == "other"
    assert post(shared, "options", sd_model_checkpoint="nothing").status_code == 422
    assert post(shared, "options", sd_model_checkpoint=titles[0]).status_code == 200


def test_options_are_for_the_operator():
    with quick_folder() as folder, site(folder, asks=True) as made:
        ann, boss = made.calling(made.key()), made.calling(made.key("boss", ("generate", "admin")))
        assert made.client.get(f"{ROOT}/options").status_code == 401
        assert ann.client.get(f"{ROOT}/options").status_code == 403 and post(ann, "options").status_code == 403
        assert get(boss, "options")["samples_format"] == "png"
        id, secret = made.keys.add("basic")[1].split(":")
        assert made.client.get(f"{ROOT}/samplers", auth=(id, secret)).status_code == 200
        assert "Basic" in made.client.get(f"{ROOT}/samplers").headers["www-authenticate"]


def test_png_info_reads_a_picture_of_ours(shared):
    settings = {"prompt": "1girl", "negative": "oldest", "steps": 30, "guidance": 7.0, "seed": 3, "width": 64, "height": 64}
    text = base64.b64encode(encode_picture(Picture(Image.new("RGB", (64, 64)), 3, settings))).decode()
    said = post(shared, "png-info", image=f"data:image/png;base64,{text}").json()
    assert said["parameters"]["Prompt"] == "1girl" and said["parameters"]["Seed"] == "3"
    assert said["info"] == said["items"]["parameters"]
    assert post(shared, "png-info", image="aGk=").status_code == 422 and post(shared, "png-info").status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [({"prompt": ""}, "prompt"), ({"steps": 1000}, "steps"), ({"cfg_scale": -1}, "cfg_scale"),
     ({"width": 4096, "height": 4096}, "width"), ({"batch_size": 99}, "batch_size"), ({"prompt": "loli, nude"}, "prompt")],
)  # fmt: skip
def test_what_may_not_be_drawn_is_refused_in_words(shared, body, field):
    reply = post(shared, "txt2img", **ASK | body)
    assert reply.status_code == 422 and reply.json()["detail"].startswith(f"{field}: ")


def test_styles_are_listed_and_put_around_the_prompt(shared):
    rows = ["name,prompt,negative_prompt", 'Sketch,"lineart, {prompt}, sketch",color', "Soft,soft light,"]
    (shared.folder / "styles.csv").write_text("\n".join(rows))
    try:
        listed = get(shared, "prompt-styles")
        with drawing(shared):
            info = json.loads(post(shared, "txt2img", **ASK, styles=["Sketch", "Soft"]).json()["info"])
        refused = post(shared, "txt2img", **ASK, styles=["Sketsh"])
    finally:
        (shared.folder / "styles.csv").unlink()
    assert listed[0] == {"name": "Sketch", "prompt": "lineart, {prompt}, sketch", "negative_prompt": "color"}
    assert info["prompt"] == "lineart, 1girl, cat ears, sketch, soft light" and info["negative_prompt"] == "oldest, color"
    assert refused.status_code == 422 and "Sketch" in refused.json()["detail"]
