"""Other people's clients against a whole server: fal-client, @fal-ai/client, openai and webuiapi, over TLS and with a key."""

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.system

HERE = Path(__file__).parent / "clients"
SOTE = Path(sys.executable).with_name("sote")
START_S = 400.0  # that a server may take to start on a busy machine
TALK_S = 900.0  # that a client's whole conversation may take there


@dataclass
class Served:
    """A running `sote serve` with one key."""

    url: str
    key: str
    certificate: Path

    @property
    def host(self) -> str:
        return self.url.removeprefix("https://")

    def run(self, command: list[str], **environment: str) -> dict:
        """What a client in a process of its own prints."""
        usual = {"PATH": os.environ["PATH"], "FAL_KEY": self.key, "HOME": os.environ.get("HOME", "/")}
        done = subprocess.run(command, env=usual | environment, capture_output=True, text=True, timeout=TALK_S)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("served")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SOTE_")}
    add = [SOTE, "serve", "keys", "add", "ann", "--scope", "generate", "--scope", "admin", "--data", data]
    key = subprocess.run(add, check=True, capture_output=True, text=True, env=environment).stdout.strip()
    log = data / "log"
    with open(log, "wb") as file:
        command = [SOTE, "serve", "--port", "0", "--tls-self-signed", "--data", data]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        yield Served(started(process, log), key, data / "tls" / "cert.pem")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def started(process, log) -> str:
    end = time.monotonic() + START_S
    while not (found := re.search(r"at (https://\S+)", log.read_text())):
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    return found[1]


def test_fal_client_runs_submits_subscribes_streams_and_cancels(served):
    hosts = {"FAL_RUN_HOST": f"{served.host}/fal/run", "FAL_QUEUE_RUN_HOST": f"{served.host}/fal/queue"}
    told = served.run([sys.executable, str(HERE / "fal_python.py")], SSL_CERT_FILE=str(served.certificate), **hosts)
    image = told["run"]["images"][0]
    assert (told["run"]["seed"], image["width"], image["height"]) == (5, 128, 128) and image["url"].startswith(served.url)
    assert told["plain"] == 5 and told["submit"]["seed"] == 5 and told["events"] == ["Completed"]
    assert told["subscribe"]["seed"] == 5 and "Completed" in told["subscribe"]["states"]
    assert told["stream"][-1] == "output" and len(told["stream"]) > 1
    assert told["before"] in ("Queued", "InProgress") and told["after"] == "Completed"
    assert told["cancelled"] == {"status": 499, "type": "client_cancelled"}
    assert told["invalid"]["status"] == 422
    assert told["webhook"] == {"status": 400, "type": "bad_request"}


def test_fal_ai_client_does_the_same_through_the_proxy(served):
    assert (HERE / "node_modules").is_dir(), f"install the client first: npm ci --prefix {HERE}"
    told = served.run(["node", str(HERE / "fal.mjs")], SOTE_URL=served.url, NODE_EXTRA_CA_CERTS=str(served.certificate))
    assert told["run"]["seed"] == 5 and told["run"]["has_nsfw_concepts"] == [None]
    assert told["subscribe"]["seed"] == 5 and len(told["subscribe"]["id"]) == 32 and "COMPLETED" in told["subscribe"]["states"]
    assert told["watched"]["seed"] == 5 and told["stream"]["seed"] == 5 and told["stream"]["events"] > 1
    assert told["before"] in ("IN_QUEUE", "IN_PROGRESS") and told["after"] == "COMPLETED"
    assert told["cancelled"]["known"] and told["cancelled"]["status"] == 499
    assert told["invalid"]["status"] == 422 and told["invalid"]["fields"] == [["body", "first_stage_steps"]]
    assert told["webhook"]["status"] == 400


@pytest.fixture
def openai_client(served):
    import openai

    trusted = ssl.create_default_context(cafile=str(served.certificate))
    http = openai.DefaultHttpxClient(verify=trusted)
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key, http_client=http, timeout=TALK_S) as client:
        yield client


def test_openai_draws_whole_and_streamed_pictures_and_lists_models(openai_client, served):
    import openai

    small = {"prompt": "1girl, cat ears", "size": "128x128"}
    ours = {"negative_prompt": "oldest", "seed": 5, "steps": 4, "guidance": 6, "decoder_steps": 2}
    said = openai_client.images.generate(**small, n=2, response_format="b64_json", extra_body=ours)
    pictures = [Image.open(BytesIO(base64.b64decode(item.b64_json))) for item in said.data]
    assert [picture.size for picture in pictures] == [(128, 128)] * 2 and said.size == "128x128"
    settings = json.loads(pictures[1].info["sotediffusion"])
    assert (settings["negative"], settings["seed"], settings["steps"], settings["guidance"]) == ("oldest", 6, 4, 6.0)
    url = openai_client.images.generate(**small, response_format="url", extra_body=ours).data[0].url
    assert url.startswith(served.url)
    with openai_client.images.generate(**small, stream=True, partial_images=2, extra_body=ours | {"steps": 12}) as events:
        kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed" and set(kinds[:-1]) <= {"image_generation.partial_image"}
    names = [model.id for model in openai_client.models.list()]
    assert names == ["miniature"] and openai_client.models.retrieve("miniature").owned_by == "sotediffusion"
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.images.generate(**small | {"size": "wide"})
    assert caught.value.param == "size"
    with pytest.raises(openai.AuthenticationError):
        openai_client.with_options(api_key="wrong").models.list()


@pytest.fixture
def webui(served, monkeypatch):
    import webuiapi

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(served.certificate))
    host, port = served.host.split(":")
    id, secret = served.key.split(":")
    return webuiapi.WebUIApi(host, int(port), use_https=True, username=id, password=secret, sampler="Default", steps=4)


def test_webuiapi_draws_from_text_and_from_a_picture_and_finds_its_lists(webui):
    wanted = {"prompt": "1girl, cat ears", "seed": 5, "width": 128, "height": 120}
    drawn = webui.txt2img(**wanted, negative_prompt="oldest", cfg_scale=6, batch_size=2)
    assert [image.size for image in drawn.images] == [(128, 120)] * 2 and drawn.info["all_seeds"] == [5, 6]
    read = webui.png_info(drawn.image)
    assert read.info.startswith("1girl, cat ears\nNegative prompt: oldest\nSteps: 4") and read.parameters["CFG scale"] == "6"
    again = webui.img2img(**wanted, images=[drawn.image], denoising_strength=0.5)
    assert again.image.size == (128, 120) and again.info["denoising_strength"] == 0.5
    assert "Default" in webui.util_get_sampler_names() and "automatic" in webui.util_get_scheduler_names()
    assert webui.util_get_model_names() == [webui.util_get_current_model()]
    webui.util_set_model("miniature")
    for ask in (webui.get_loras, webui.get_sd_vae, webui.get_upscalers, webui.get_latent_upscale_modes, webui.get_prompt_styles,
                webui.get_embeddings, webui.get_memory, webui.get_cmd_flags, webui.get_scripts, webui.get_hypernetworks,
                webui.get_face_restorers, webui.get_realesrgan_models, webui.refresh_checkpoints):  # fmt: skip
        ask()
    webui.util_wait_for_ready(0.1)


def test_webuiapi_watches_and_interrupts(webui):
    drawn = []
    wanted = {"prompt": "1girl, cat ears", "width": 128, "height": 128, "batch_size": 4, "steps": 100}
    thread = threading.Thread(target=lambda: drawn.append(webui.txt2img(**wanted)))
    thread.start()
    end = time.monotonic() + TALK_S
    while (far := webui.get_progress())["state"]["sampling_steps"] == 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert 0 < far["progress"] < 1 and far["state"]["sampling_steps"] == 4 * 110
    assert webui.interrupt() == {} and webui.skip() == {}
    thread.join(TALK_S)
    assert drawn[0].images == [] and webui.get_progress()["progress"] == 0.0
