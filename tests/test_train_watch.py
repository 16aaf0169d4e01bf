"""Claims about what one sees of a run: its losses, its pictures, its journal, and that looking changes nothing."""

import json
import struct
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image
from training_run import assert_equal_states, forked, go, go_together, losses, model_folder, order, picture_folder, state

from sotediffusion.pictures.files import read_settings
from sotediffusion.train.events import Events, crc32c
from sotediffusion.train.prompts import read_prompts
from sotediffusion.train.status import Health
from sotediffusion.types import UserError

LINES = ("1girl, cat ears --n bad --w 128 --h 134 --d 7 --l 3 --s 1", "1boy --w 64 --h 64 --s 1 --ss euler")
SEEN = ("data.held_out=0.3", "validate.every='2 steps'", "draw.every='4 steps'", f"draw.prompts={list(LINES)}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("watched")
    model_folder(path / "model")
    picture_folder(path / "pictures")
    notes = []
    watched = order(path, "watched", *SEEN)
    from sotediffusion.train.run import run

    run(watched, lambda status: None, lambda *done: None, note=notes.append)
    (path / "notes.txt").write_text("\n".join(notes))
    return path


def test_looking_at_a_run_does_not_change_it(place):
    go(order(place, "unseen", "data.held_out=0.3"))
    assert losses(place / "unseen") == losses(place / "watched")
    assert_equal_states(place / "unseen", place / "watched")


def test_held_out_losses_are_those_of_the_weights_that_are_saved(place):
    lines = [json.loads(line) for line in (place / "watched" / "validation.jsonl").open()]
    assert [line["images"] for line in lines] == sorted({line["images"] for line in lines})
    assert lines[0]["images"] == 0 and len(lines) >= 4 and "loss at logsnr -1..+1" in lines[0]
    go(order(place, "again", *SEEN[:2], "train.steps=1", "train.lr=1e-9", "train.text_lr=1e-9"))
    again = [json.loads(line) for line in (place / "again" / "validation.jsonl").open()]
    assert again[0] == lines[0]  # the same pictures, times and noise
    assert again[-1]["loss"] == pytest.approx(lines[0]["loss"], rel=1e-4) and lines[-1]["loss"] != lines[0]["loss"]


def test_pictures_are_drawn_from_prompts_and_seeds_that_stay(place):
    folders = sorted(path.name for path in (place / "watched" / "drawn").iterdir())
    assert folders[0] == "000000000000" and len(folders) >= 3
    first = place / "watched" / "drawn" / folders[0] / "00.png"
    told = read_settings(first)
    assert (told["seed"], told["width"], told["height"], told["guidance"]) == (7, 128, 128, 3.0)
    assert told["negative"] == "bad" and Image.open(first).size == (128, 128)
    with Image.open(first.with_name("sheet.webp")) as sheet:
        assert sheet.size == (256, 128)
    last = place / "watched" / "drawn" / folders[-1] / "00.png"
    assert first.read_bytes() != last.read_bytes()
    assert "--ss" in (place / "notes.txt").read_text()


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_see_the_held_out_losses_of_one(place, sharding):
    what = order(place, sharding, *SEEN, "train.steps=2", "memory.average=device",
                 f"distributed.sharding={sharding}")  # fmt: skip
    assert forked(lambda: go_together(what, sharding), count=2) == [0, 0]
    one, two = ([json.loads(line) for line in (place / name / "validation.jsonl").open()][0] for name in ("watched", sharding))
    pictures = [place / name / "drawn" / "000000000000" / "00.png" for name in ("watched", sharding)]
    assert Image.open(pictures[0]).tobytes() == Image.open(pictures[1]).tobytes()
    assert two.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-5) and two.keys() == one.keys()


def test_a_lora_is_drawn_with_where_it_is(place):
    more = ("lora.rank=2", "train.ema=20", "train.steps=2", "train.lr=0.1", "train.text_lr=0.1")
    go(order(place, "lora", *SEEN, *more))
    first, *_, last = sorted((place / "lora" / "drawn").iterdir())
    unlike = [(folder / "00.png").read_bytes() for folder in (first, last)]
    assert unlike[0] != unlike[1]
    original = place / "watched" / "drawn" / first.name / "00.png"
    assert Image.open(first / "00.png").tobytes() == Image.open(original).tobytes()  # it changes nothing at first


def test_a_run_that_goes_on_forgets_what_will_be_seen_again(place):
    what = order(place, "stopped", *SEEN[:2], "train.steps=3")
    go(what)
    path = place / "stopped" / "validation.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps({"images": 10**6, "loss": 9.0})]) + "\n")
    go(order(place, "stopped", *SEEN[:2], "train.steps=6"))
    found = [json.loads(line)["images"] for line in path.open()]
    assert found == sorted(set(found)) and max(found) < 10**6 and found[0] == 0


def test_the_share_of_the_device_is_told_where_its_rate_is_known(place):
    told = [json.loads(line)["numbers"] for line in (place / "watched" / "stats.jsonl").open()]
    assert all(0 < numbers["MFU"] < 1 for numbers in told[:-1])


def parsed(data: bytes) -> dict[int, list]:
    """Fields of a Protocol Buffers message by number."""
    found: dict[int, list] = {}
    file = BytesIO(data)

    def number() -> int:
        value = shift = 0
        while True:
            byte = file.read(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while file.tell() < len(data):
        key = number()
        read = {0: number, 1: lambda: struct.unpack("<d", file.read(8))[0], 2: lambda: file.read(number()),
                5: lambda: struct.unpack("<f", file.read(4))[0]}[key & 7]  # fmt: skip
        found.setdefault(key >> 3, []).append(read())
    return found


def test_event_files_are_what_tensorboard_reads(tmp_path):
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    events = Events(tmp_path, resumed=5)
    events.numbers(300, {"loss": 0.5})
    events.picture(301, "drawn", b"bytes", (20, 10))
    events.close()
    (path,) = tmp_path.iterdir()
    data, records = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        records.append(parsed(data[12 : 12 + length]))
        data = data[16 + length :]
    assert records[0][3] == [b"brain.Event:2"] and records[1][2] == [6] and parsed(records[1][7][0]) == {1: [1]}
    value = parsed(parsed(records[2][5][0])[1][0])
    assert records[2][2] == [300] and value == {1: [b"loss"], 2: [0.5]}
    assert parsed(parsed(parsed(records[3][5][0])[1][0])[4][0]) == {1: [10], 2: [20], 3: [3], 4: [b"bytes"]}


def test_kohyas_files_of_sample_prompts_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("# no prompt\n1girl, cat--ears, --o --n lowres, bad --w 1023 --d 4\n\n  1boy\n")
    (one, two), notes = read_prompts(str(tmp_path / "a.txt"))
    assert (one.prompt, one.negative, one.width, one.height, one.seed) == ("1girl, cat--ears,", "lowres, bad", 1016, None, 4)
    assert (two.prompt, two.seed) == ("1boy", 1) and len(notes) == 1
    (tmp_path / "a.toml").write_text("[prompt]\nwidth = 512\nscale = 5\n[[prompt.subset]]\nprompt = 'a'\n[[prompt.subset]]\n"
                                     "prompt = 'b'\nsample_steps = 9\n")  # fmt: skip
    (one, two), _ = read_prompts(str(tmp_path / "a.toml"))
    assert (one.width, one.guidance, two.prompt, two.steps) == (512, 5.0, "b", 9)
    (tmp_path / "a.json").write_text(json.dumps([{"prompt": "c", "negative_prompt": "d", "seed": 3}]))
    (one,), _ = read_prompts(str(tmp_path / "a.json"))
    assert (one.prompt, one.negative, one.seed) == ("c", "d", 3)


@pytest.mark.parametrize("prompts, said", [
    ("no such file.txt", "is no file"),
    (("  --w 64",), "says nothing"),
    (("1girl --w wide",), "is no int"),
    (("1girl --s 5000",), "steps: 5000 is out of range"),
    (("loli, nude",), "prompt"),
])  # fmt: skip
def test_prompts_that_cannot_or_must_not_be_drawn_are_refused_before_a_run(prompts, said):
    with pytest.raises(UserError, match=said):
        read_prompts(prompts)


def test_what_cannot_be_watched_is_said_before_a_model_is_opened(place):
    for wrong, said in (("validate.every=often", "'often' is no amount"), ("validate.readings=0", "give 1 or more"),
                        ("log.to=['wandb']", "log.to: needs the package wandb")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            go(replace(order(place, "none", wrong), model=place / "no such model"))
    with pytest.raises(UserError, match="held_out: .* is none; give a larger share"):
        go(replace(order(place, "none", "data.held_out=0.000001"), model=place / "no such model"))


def test_numbers_that_are_none_name_the_last_good_checkpoint_where_there_is_one(place, tmp_path):
    with pytest.raises(UserError, match="no checkpoint was saved yet, lower the lr"):
        Health({"images": 3}, tmp_path).check(float("nan"), 1.0)
    checkpoints = place / "watched" / "checkpoints"
    with pytest.raises(UserError, match="times what is usual.*last good checkpoint is .*checkpoints/0"):
        Health({"images": 3, "usual": 1.0, "watched": 100}, checkpoints).check(1000.0, 1.0)
    assert all(torch.isfinite(value).all() for value in state(place / "watched").values() if value.is_floating_point())
