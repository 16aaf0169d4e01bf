"""Runs of a model of a few weights on a folder of small pictures, in processes of their own that may be killed."""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from tiny import tiny_cascade
from training_pictures import paint

import sotediffusion
from sotediffusion.train import checkpoint
from sotediffusion.train.distributed import ALONE, joined
from sotediffusion.train.run import Order, run
from sotediffusion.train.settings import Settings, resolve
from sotediffusion.weights.store import save_cascade

PATIENCE_S = 900.0  # that processes may take on a busy machine
PRESETS = Path(sotediffusion.__file__).parent / "presets" / "train"
SMALL = ("train.batch=8", "train.micro=4", "train.epochs=0", "train.steps=6", "train.lr=1e-3", "train.text_lr=4e-4",
         "train.ema=40", "train.dropout=0",
         "schedule.warmup=0", "precision.compute=float32", "precision.frozen=float32", "memory.recompute=[]",
         "save.every=0", "save.dtype=float32", "save.report_seconds=0", "data.buckets.resolution=128", "data.buckets.shortest=64",
         "data.buckets.longest=256")  # fmt: skip


def model_folder(path: Path) -> Path:
    """The tiny cascade of random weights, saved."""
    save_cascade(tiny_cascade(), path, "folder", over=True)
    return path


def picture_folder(path: Path, count: int = 20) -> Path:
    """Pictures with captions beside them."""
    for number in range(count):
        paint(path / f"{number:02d}.png", number).with_suffix(".txt").write_text(f"1girl, thing {number}, colour {number % 5}")
    return path


def training_place(path: Path) -> Path:
    """A folder with `model` and `pictures` in it."""
    model_folder(path / "model")
    picture_folder(path / "pictures")
    return path


def settings(*assignments: str, preset: str = "card-base") -> Settings:
    """A preset made small, with assignments on top."""
    return resolve(preset, (*SMALL, *assignments), PRESETS)


def order(place: Path, name: str, *assignments: str, preset: str = "card-base", **more) -> Order:
    """A run `name` in `place`, which holds `model` and `pictures`."""
    return Order(settings(*assignments, preset=preset), str(place / "pictures"), place / "model", place / name, **more)


def go(what: Order, report: Callable = lambda status: None, ranks=ALONE, note: Callable = lambda text: None):
    """Run it."""
    return run(what, report, lambda *done: None, ranks, note)


def losses(folder: Path) -> dict[int, float]:
    """Loss by images seen, of every step."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").open()]
    return {line["images"]: line["loss"] for line in lines if line["outcome"] == "running"}


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the last state."""
    checkpoints = folder / "checkpoints"
    tensors: dict[str, torch.Tensor] = {}
    checkpoint.split(checkpoint.load(checkpoints, checkpoint.latest(checkpoints)), tensors)
    return tensors


def assert_equal_states(one: Path, other: Path) -> None:
    left, right = state(one), state(other)
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def forked(work: Callable[[], object], count: int = 1) -> list[int]:
    """Run `work` in `count` new processes that find each other, and wait; their exit codes, below 0 for a signal."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    children = [_fork(work, number, count, port) for number in range(count)]
    codes: dict[int, int] = {}
    end = time.monotonic() + PATIENCE_S
    try:
        while len(codes) < count:
            assert time.monotonic() < end, f"only {codes} of {children} have ended"
            for child in set(children) - codes.keys():
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[child] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
    finally:
        for child in set(children) - codes.keys():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return [codes[child] for child in children]


def _fork(work: Callable[[], object], number: int, count: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    with suppress(BaseException):
        os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
    os._exit(code)


def go_together(what: Order, sharding: str = "ddp", report: Callable = lambda status: None) -> None:
    """Run it as one of the processes that `forked` started."""
    number, count = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    with joined(number, count, number, "cpu", sharding, minutes=2) as ranks:
        go(what, report if number == 0 else lambda status: None, ranks)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
