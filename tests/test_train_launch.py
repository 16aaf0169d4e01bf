"""Claims about a run of several processes that the command starts itself: told to stop it saves, says so, and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_run import SMALL, training_place

from sotediffusion.cli.main import main
from sotediffusion.train import checkpoint
from sotediffusion.train.loop import Options
from sotediffusion.train.status import Status


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return training_place(tmp_path_factory.mktemp("runs"))


def command(place, name, *assignments, nproc=2):
    small = [argument for assignment in (*SMALL, *assignments) for argument in ("-s", assignment)]
    return [sys.executable, "-m", "sotediffusion.cli.main", "train", "run", "card-base", "--data", str(place / "pictures"),
            "--model", str(place / "model"), "--out", str(place / name), "--nproc", str(nproc), "--threads", "1",
            "--device", "cpu", *small]  # fmt: skip


def lines(folder):
    path = folder / "stats.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.is_file() else []


@pytest.mark.parametrize("nproc, number", [(2, signal.SIGTERM), (2, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_signal_to_the_whole_group_lets_each_process_save_and_is_told_by_the_exit_code(place, nproc, number):
    name = f"{nproc}-{number.name}"
    endless = command(place, name, "train.steps=1_000_000", nproc=nproc)
    started = subprocess.Popen(endless, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 600
    while len(lines(place / name)) < 2:
        assert started.poll() is None, started.communicate()
        if time.monotonic() > end:
            os.killpg(started.pid, signal.SIGKILL)
            pytest.fail("it did not begin")
        time.sleep(0.05)
    if nproc > 1:  # of signals that come close together Python often sees one, so that this is looked at besides
        children = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        assert len(children) == nproc and all(os.getpgid(int(child)) != started.pid for child in children)
    os.killpg(started.pid, number)
    said, complaints = started.communicate(timeout=600)
    assert started.returncode == 128 + number, complaints
    assert "card-base interrupted at" in said
    last = lines(place / name)[-1]
    assert (last["outcome"], last["signal"]) == ("interrupted", number)
    assert int(checkpoint.latest(place / name / "checkpoints")) == last["images"]
    of = f"-of-{nproc}" if nproc > 1 else ""
    assert len(list((place / name / "checkpoints").glob(f"*{of}.safetensors"))) == nproc


@pytest.mark.parametrize("area, part", [("miniature", "text"), ("standins", "tagger")])
def test_parts_of_the_miniature_and_stand_ins_leave_with_the_code_of_the_signal_too(monkeypatch, tmp_path, area, part):
    where = "sotediffusion.train.parts" if area == "miniature" else "sotediffusion.train.standins"
    monkeypatch.setattr(f"{where}.recipe_of", lambda *what: (None, Options(1, 1, 1e-3)))
    stopped = Status(0, 1, 0, 0, 0, 0, 0, outcome="interrupted", signal=signal.SIGTERM)
    monkeypatch.setattr("sotediffusion.train.loop.train", lambda *what: stopped)
    with pytest.raises(SystemExit) as left:
        main(["train", area, part, "--data", str(tmp_path), "--out", str(tmp_path)])
    assert left.value.code == 143
