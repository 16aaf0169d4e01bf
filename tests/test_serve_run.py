"""`sote serve` as a user starts it: real processes from the command to the picture, and what it refuses to do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_cascade
from web import MENU, png, quick_folder

from sotediffusion.cli import serve as command
from sotediffusion.config import build, plain
from sotediffusion.generate import generate
from sotediffusion.pictures.files import read_settings
from sotediffusion.serve import menu, run
from sotediffusion.serve.menu import Menu
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import JobState
from sotediffusion.serve.storage.keys import KeyStore
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import Request, UserError
from sotediffusion.weights.store import save_cascade

ORDER = {"prompt": "1girl, cat ears", "width": 64, "height": 64, "steps": 3, "decoder_steps": 2, "seed": 7}
# So long that a busy machine still sees it run.
LONG = ORDER | {"steps": 150, "decoder_steps": 20, "count": 8, "width": 256, "height": 256}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_cascade(tiny_cascade(), path)
    return path


@contextmanager
def served(folder: Path, model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    """`sote serve` on a free port, ready, and a client of it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "sotediffusion.cli.main", "serve", "--model", str(model), "--port", "0"]
    more = ["--data", str(folder), "-s", "worker.threads=1", *options]
    process = subprocess.Popen([*words, *more], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.rpartition(" at ")[2].strip()
        assert url.startswith("http"), line
        with httpx2.Client(base_url=url, timeout=120, verify=False) as client:
            wait(lambda: client.get("/readyz").status_code == 200)
            yield process, client
    finally:
        process.kill()
        process.wait()


def wait(true: Any, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.1)


def closed(client: httpx2.Client) -> bool:
    """No order is taken any more: it is refused, or nobody is there."""
    try:
        return client.post("/api/v1/jobs", json=ORDER).status_code == 503
    except httpx2.TransportError:
        return True


def ended(client: httpx2.Client, id: str, heard: threading.Event | None = None) -> dict[str, Any]:
    """The job when its stream of events has ended; `heard` is set when something was told."""
    last: dict[str, Any] = {}
    with client.stream("GET", f"/api/v1/jobs/{id}/events", timeout=600) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: "):
                last = json.loads(line[6:])
                if heard is not None:
                    heard.set()
    return last


def test_from_the_command_to_the_picture_and_a_drain_that_loses_nothing(model: Path) -> None:
    with quick_folder() as folder:
        with served(folder, model) as (process, client):
            job = client.post("/api/v1/jobs", json=ORDER).json()
            job = ended(client, job["id"])
            assert job["state"] == "succeeded"
            content = client.get(job["pictures"][0]["url"]).content
            (alone,) = generate(tiny_cascade(), Request(**ORDER))
            with Image.open(BytesIO(content)) as image:
                difference = np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(alone.image, int))
                assert difference.max() <= 1
            (folder / "fetched.png").write_bytes(content)
            assert read_settings(folder / "fetched.png")["prompt"] == ORDER["prompt"]
            text = client.get("/metrics").text
            assert 'sote_jobs_ended_total{model="tiny",origin="own",state="succeeded"} 1.0' in text
            running = client.post("/api/v1/jobs", json=LONG).json()["id"]
            wait(lambda: client.get(f"/api/v1/jobs/{running}").json()["state"] == "running")
            told: list[dict[str, Any]] = []
            heard = threading.Event()
            listener = threading.Thread(target=lambda: told.append(ended(client, running, heard)))
            listener.start()
            assert heard.wait(600)
            process.send_signal(signal.SIGTERM)
            wait(lambda: closed(client))
            listener.join(600)
            assert process.wait(600) == 0 and told[0]["state"] == "succeeded" and len(told[0]["pictures"]) == LONG["count"]
        states = {job.id: job.state for job in JobStore(Database(folder / "jobs.sqlite")).find()}
        assert states[running] == JobState.SUCCEEDED


def test_a_killed_server_has_forgotten_nothing_when_it_comes_back(model: Path) -> None:
    with quick_folder() as folder:
        with served(folder, model) as (process, client):
            order = LONG | {"count": 1, "width": 64, "height": 64}
            ids = [client.post("/api/v1/jobs", json=order | {"seed": n}).json()["id"] for n in range(3)]
            wait(lambda: client.get(f"/api/v1/jobs/{ids[0]}").json()["state"] in ("running", "succeeded"))
            process.kill()
            process.wait()
        with served(folder, model) as (process, client):
            jobs = [ended(client, id) for id in ids]
            assert [(job["state"], len(job["pictures"])) for job in jobs] == [("succeeded", 1)] * 3


# What is refused


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, offered: Menu | None = None, **more: Any) -> run.Server:
    monkeypatch.setattr(menu, "ask", lambda places: offered or Menu({"tiny": MENU.models["tiny"]}, ("ddpm",), ("default",)))
    places = {"data": folder, "jobs": str(folder / "jobs.sqlite"), "shelf": str(folder / "pictures"), "models": ["tiny"]}
    return run.open_server(build(run.Settings, places | more))


def test_beyond_this_machine_it_needs_keys_and_tls_or_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = opened(tmp_path, monkeypatch)
    assert not server.house.doorkeeper.asks
    hosts = ("0.0.0.0", "192.168.1.7", "draw.example", "::")
    for public in (*({"host": host} for host in hosts), {"behind_proxy": True}):
        with pytest.raises(UserError, match="sote serve keys add"):
            opened(tmp_path, monkeypatch, **public)
    keys = KeyStore(Database(tmp_path / "jobs.sqlite"))
    key, _ = keys.add("ann")
    with pytest.raises(UserError, match="tls"):
        opened(tmp_path, monkeypatch, host="0.0.0.0")
    for public in ({"host": "0.0.0.0", "tls": ["a", "b"]}, {"behind_proxy": True}, {}):
        assert opened(tmp_path, monkeypatch, **public).house.doorkeeper.asks
    keys.revoke(key.id)
    assert opened(tmp_path, monkeypatch).house.doorkeeper.asks  # the last key's end does not open the doors
    with pytest.raises(UserError, match="no API key"):
        opened(tmp_path, monkeypatch, behind_proxy=True)


def test_a_forbidding_licence_keeps_it_here_unless_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Menu({"other": MENU.models["other"]}, ("ddpm",), ("default",))
    KeyStore(Database(tmp_path / "jobs.sqlite")).add("ann")
    opened(tmp_path, monkeypatch, other)
    with pytest.raises(UserError, match="public-licence-acknowledged"):
        opened(tmp_path, monkeypatch, other, behind_proxy=True)
    more = {"behind_proxy": True, "licence_acknowledged": True, "source": "https://example.org/model"}
    assert opened(tmp_path, monkeypatch, other, **more).notes


def test_webhooks_and_a_rating_tagger_are_there_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = opened(tmp_path, monkeypatch)
    assert server.keeper.sender is None and server.house.gateway.receivers is None and not server.house.gateway.rates
    tagger = Path(run.__file__).parents[1] / "miniature" / "stand_ins" / "miniature-tagger"
    server = opened(tmp_path, monkeypatch, webhooks=True, rating=str(tagger), names=["Draw.Example"])
    assert server.keeper.sender is not None and server.house.gateway.receivers == ()
    assert server.house.gateway.rate is not None and server.house.gateway.rate(png()) == 0
    assert "draw.example" in server.house.walls.names
    with pytest.raises(UserError, match="rating"):
        opened(tmp_path, monkeypatch, rating=str(tmp_path))


def test_a_menu_is_read_from_files_without_torch_here(model: Path) -> None:
    code = (
        "import sys, json; from sotediffusion.serve import menu, run, app; from sotediffusion.config import plain;"
        "found = menu.ask([sys.argv[1]]); assert 'torch' not in sys.modules; print(json.dumps(plain(found)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model)], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert found == plain(menu.describe([str(model)]))
    offer = found["models"]["tiny"]
    assert offer["init"] and offer["previews"] and found["samplers"][0] == "ddpm" and offer["hashes"]
    with pytest.raises(UserError, match="both called"):
        menu.describe([str(model), str(model)])
    with pytest.raises(UserError, match="model"):
        menu.ask([str(model / "nothing")])


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = opened(tmp_path, monkeypatch, port=taken.getsockname()[1])
        with pytest.raises(UserError, match="--port"):
            run.run(server)


def told(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> run.Settings:
    """The settings that a command line comes to."""
    found: list[run.Settings] = []
    monkeypatch.setattr(command, "_serve", found.append)
    command.group.main(list(arguments), standalone_mode=False)
    (settings,) = found
    return settings


def test_options_win_over_a_file_and_single_settings_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTE_JOBS", "postgresql://ann:hush@db/jobs")
    (tmp_path / "serve.toml").write_text('host = "::1"\nport = 99\n[limits]\nqueued = 7\n[worker]\nthreads = 3\n')
    plainly = told(monkeypatch, "--data", str(tmp_path))
    assert (plainly.host, plainly.port, plainly.models) == ("127.0.0.1", 7860, ("miniature",))
    assert plainly.shelf == f"{tmp_path}/pictures"
    assert plainly.jobs.endswith("hush@db/jobs") and "hush" not in repr(plainly) and "card" in plainly.presets
    assert plainly.page["chips"]["quality"][0] == "best quality"
    config = ["--data", str(tmp_path), "--config", str(tmp_path / "serve.toml")]
    more = ["--port", "98", "--device", "cpu", "-s", "limits.queued=8", "--model", "a", "--model", "b"]
    settings = told(monkeypatch, *config, *more)
    assert (settings.host, settings.port, settings.limits.queued, settings.models) == ("::1", 98, 8, ("a", "b"))
    assert settings.worker == {"threads": 3, "device": "cpu"}
    with pytest.raises(UserError, match="queed"):
        told(monkeypatch, *config, "-s", "limits.queed=8")
    with pytest.raises(UserError, match="both"):
        told(monkeypatch, "--tls-cert", str(tmp_path / "serve.toml"))
    made = told(monkeypatch, "--data", str(tmp_path), "--tls-self-signed", "--name", "draw.example")
    assert made.tls is not None and made.tls[0] == tmp_path / "tls" / "cert.pem" and made.tls[0].is_file()


@pytest.mark.parametrize("place", ["jobs=postgresql://ann:hush@db/jobs", "jobs=postgresql://db/jobs?password=hush",
                                   "shelf=s3://key:hush@bucket"])  # fmt: skip
def test_a_password_in_a_command_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    with pytest.raises(UserError, match="SOTE_") as caught:
        told(monkeypatch, "--data", str(tmp_path), "-s", place)
    assert "hush" not in str(caught.value)
    (tmp_path / "serve.toml").write_text(place.replace("=", ' = "', 1) + '"')
    told(monkeypatch, "--config", str(tmp_path / "serve.toml"))
    assert told(monkeypatch, "-s", "jobs=postgresql://ann@db/jobs").jobs == "postgresql://ann@db/jobs"


def test_options_of_a_server_are_not_lost_before_the_command_for_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data"):
        command.group.main(["--data", str(tmp_path), "keys", "list"], standalone_mode=False)


def test_the_command_for_keys_is_still_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.group.main(["keys", "add", "ann", "--data", str(tmp_path)], standalone_mode=False)
    assert ":" in capsys.readouterr().out
