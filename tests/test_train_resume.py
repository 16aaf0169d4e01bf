"""Claims about a run that is broken off: killed at any moment, the same order goes on to the same end, bit for bit."""

import os
import signal
import time
from pathlib import Path

import pytest
from training_run import assert_equal_states, die, forked, go, losses, order, state, training_place

from sotediffusion.train import checkpoint, export, opening
from sotediffusion.train.validation import Validation
from sotediffusion.types import UserError
from sotediffusion.weights import writing

EVERY = ("save.state_minutes=0", "save.every='2 steps'")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = training_place(tmp_path_factory.mktemp("runs"))
    assert forked(lambda: go(order(path, "unbroken", *EVERY))) == [0]
    return path


def after(calls: int, function):
    """`function`, but the process dies at a call of it."""
    count = iter(range(99))

    def called(*arguments, **more):
        if next(count) == calls:
            die()
        return function(*arguments, **more)

    return called


def half(write):
    """A writer that dies when half is written."""

    def called(path, tensors, metadata):
        write(path, tensors, metadata)
        os.truncate(path, Path(path).stat().st_size // 2)
        die()

    return called


def die_in_a_step(what):
    def report(status):
        if status.images >= 24:
            die()

    go(what, report)


def die_while_writing_a_state(what):
    real, count = checkpoint.write_file, iter(range(99))
    checkpoint.write_file = lambda *arguments: (half(real) if next(count) == 3 else real)(*arguments)
    go(what)


def die_before_the_record(what):
    checkpoint.save_json = after(3, checkpoint.save_json)
    go(what)


def die_while_saving_a_model(what):
    export.save_cascade = after(1, export.save_cascade)
    go(what)


def die_with_half_a_model(what):
    """Late enough that a state would say by then that the run came past the model."""
    real, count = writing.write_file, iter(range(99))

    def slow(*arguments):
        if next(count) < 7:  # 6 files a model
            return real(*arguments)
        time.sleep(1)
        half(real)(*arguments)

    writing.write_file = slow
    go(what)


@pytest.mark.parametrize("killed", [die_in_a_step, die_while_writing_a_state, die_before_the_record, die_while_saving_a_model,
                                    die_with_half_a_model])  # fmt: skip
def test_killed_at_any_moment_the_same_order_goes_on_to_the_same_end(place, killed):
    name = killed.__name__
    assert forked(lambda: killed(order(place, name, *EVERY))) == [-signal.SIGKILL]
    assert checkpoint.latest(place / name / "checkpoints") < checkpoint.latest(place / "unbroken" / "checkpoints")
    assert forked(lambda: go(order(place, name, *EVERY))) == [0]
    assert losses(place / name) == losses(place / "unbroken") and len(losses(place / name)) == 6
    assert_equal_states(place / "unbroken", place / name)
    models = [sorted(p.relative_to(place / run) for p in (place / run / "models").rglob("*.safetensors"))
              for run in ("unbroken", name)]
    assert models[0] == models[1] and len({path.parts[1] for path in models[0]}) == 3  # all, and no litter of the killed one
    assert all((place / name / path).stat().st_size == (place / "unbroken" / path).stat().st_size for path in models[0])
    left = {path.name for path in (place / name / "checkpoints").iterdir()}
    assert left == {path.name for path in (place / "unbroken" / "checkpoints").iterdir()}  # no litter of the killed one


def test_a_run_told_to_stop_saves_and_goes_on_to_the_same_end(place):
    def stop(status):
        if status.images == 24 and status.outcome == "running":
            os.kill(os.getpid(), signal.SIGTERM)

    status = go(order(place, "stopped"), stop)
    assert (status.outcome, status.images) == ("interrupted", 24)
    assert checkpoint.latest(place / "stopped" / "checkpoints") == "000000000024"
    assert go(order(place, "stopped")).outcome == "finished"
    assert losses(place / "stopped") == losses(place / "unbroken")
    assert_equal_states(place / "unbroken", place / "stopped")


def test_a_full_disk_keeps_the_last_good_state_and_the_run_goes_on_when_there_is_room(place, monkeypatch):
    real, count = checkpoint.write_file, iter(range(99))

    def full(path, tensors, metadata):
        if next(count) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "write_file", full)
    with pytest.raises(UserError, match=r"out: could not write .*No space left on device.*; the last good one is 000000000016"):
        go(order(place, "full", *EVERY))
    monkeypatch.undo()
    go(order(place, "full", *EVERY))
    assert_equal_states(place / "unbroken", place / "full")


def no_latents(*arguments):
    raise AssertionError("latents are made for a run that cannot go on")


def test_a_changed_rate_is_taken_from_there_on_and_another_optimizer_data_or_convention_refused_at_once(place, monkeypatch):
    go(order(place, "changed", "train.steps=2"))
    status = go(order(place, "changed", "train.steps=3", "train.lr=5e-4"))
    assert status.images == 24 and status.lr == pytest.approx(5e-4)
    changes = {
        "optimizer.kind: .* was trained with adafactor, .* nothing to adamw": ("optimizer.kind=adamw",),
        "recipe: the run began with text_mask = masked and would go on with unmasked": ("text_mask=unmasked",),
        "data: .* trained on other data": ("data.captions.dropout=0.5",),
    }
    monkeypatch.setattr(opening, "prepare", no_latents)
    for message, assignments in changes.items():
        for dry in (False, True):
            with pytest.raises(UserError, match=message):
                go(order(place, "changed", "train.steps=4", *assignments, dry=dry))
    with pytest.raises(UserError, match=r"recipe: the run began with text_mask"):
        go(order(place, "warm", "text_mask=unmasked", continue_from=place / "changed"))
    assert not (place / "warm").exists() or not list((place / "warm").rglob("*.toml"))


def test_a_run_may_start_from_another_one_at_another_size(place):
    go(order(place, "small", "train.steps=1"))
    larger = ("data.buckets.resolution=256", "data.buckets.shortest=128")
    status = go(order(place, "larger", "train.steps=1", *larger, continue_from=place / "small"))
    assert status.images == 16


def test_latents_of_another_effnet_are_refused_at_once_also_when_it_is_only_tried(place, monkeypatch):
    go(order(place, "cached", "train.steps=1"))
    about = place / "cached" / "latents" / "latents.json"
    about.write_text(about.read_text().replace('"EffNet": "', '"EffNet": "f00'))
    monkeypatch.setattr(opening, "prepare", no_latents)
    for dry in (False, True):
        with pytest.raises(UserError, match="cache: .* holds latents made with EffNet f00"):
            go(order(place, "cached", "train.steps=2", dry=dry))


def test_what_is_looked_at_before_a_run_has_the_shapes_of_the_state(place):
    checkpoints = place / "unbroken" / "checkpoints"
    name = checkpoint.latest(checkpoints)
    states = [{}, {}]
    for tensors, read in zip(states, (checkpoint.load, checkpoint.outline), strict=True):
        checkpoint.split(read(checkpoints, name), tensors)
    assert {key: value.shape for key, value in states[0].items()} == {key: value.shape for key, value in states[1].items()}
    assert all(value.is_meta for value in states[1].values())


def test_a_state_of_another_architecture_is_refused_naming_the_first_tensor_that_differs(place):
    go(order(place, "architecture", "train.steps=1"))
    other = r"model: .*architecture was trained with another architecture: text\..* is \(.* and missing here"
    with pytest.raises(UserError, match=other):
        go(order(place, "architecture", "train.steps=2", "train.text_lr=0"))


def test_a_dry_run_changes_and_saves_nothing(place):
    status = go(order(place, "dry", dry=True))
    assert status.outcome == "tried" and status.steps == 2 and status.loss > 0 and status.numbers["gradient norm"] > 0
    assert not [path for path in (place / "dry").rglob("*") if path.is_file() and path.parent.name != "data"]


def test_a_dry_run_tries_a_drawing_and_the_held_out_pictures_and_keeps_neither(place, monkeypatch):
    (place / "prompts.txt").write_text("a cat --s 1 --w 128 --h 128\na dog --s 1 --w 128 --h 128\n")
    tried = []
    monkeypatch.setattr("sotediffusion.train.drawings.save_picture", lambda picture, path: tried.append(Path(path)))
    monkeypatch.setattr(Validation, "reach", lambda self, *what: tried.append(len(self.stream)))
    monkeypatch.setattr("sotediffusion.train.drawings.write_whole", lambda path, content: tried.append(Path(path)))
    asked = (f"draw.prompts='{place / 'prompts.txt'}'", "data.held_out=0.3")
    assert go(order(place, "tried", *asked, dry=True)).outcome == "tried"
    held, picture, sheet = tried
    assert 0 < held <= 8 and picture.name == "00.png" and place not in picture.parents and not sheet.parent.exists()
    assert not [path for path in (place / "tried").rglob("*") if path.is_file() and path.parent.name != "data"]


def test_states_hold_what_a_run_is(place):
    names = {key.split("/")[1] for key in state(place / "unbroken")}
    assert names == {"modules", "optimizer", "ema"}
