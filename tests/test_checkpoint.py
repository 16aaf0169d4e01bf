"""Claims about checkpoints: whole or not there, the same when read, checked, rotated."""

import pytest
import torch

from sotediffusion.train import checkpoint
from sotediffusion.types import UserError

STATE = {
    "modules": {"a.weight": torch.randn(3, 4), "steps": torch.tensor(7)},
    "optimizer": {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2)}},
        "param_groups": [{"lr": 0.1, "betas": [0.9, 0.99]}],
    },
    "place": {"images": 12, "seconds": 0.1, "cooled": False},
}


def flat(tree, path=()):
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in flat(value, (*path, key)).items()}
    if isinstance(tree, list):
        return {k: v for i, value in enumerate(tree) for k, v in flat(value, (*path, i)).items()}
    return {path: tree.tolist() if isinstance(tree, torch.Tensor) else tree}


def test_a_checkpoint_comes_back_to_the_bit_with_its_integer_keys(tmp_path):
    checkpoint.save(tmp_path, "000001", STATE)
    assert flat(checkpoint.load(tmp_path, "000001")) == flat(STATE)


def test_only_the_last_ones_are_kept_and_named_ones_always(tmp_path):
    checkpoint.save(tmp_path, "before-cooldown", STATE)
    for number in range(4):
        checkpoint.save(tmp_path, f"{number:06d}", STATE, keep=2)
    assert checkpoint.numbered(tmp_path) == ["000002", "000003"]
    assert (tmp_path / "before-cooldown.json").is_file()
    assert checkpoint.latest(tmp_path) == "000003"


def test_a_changed_byte_is_noticed_and_the_earlier_checkpoint_named(tmp_path):
    for name in ("000001", "000002"):
        checkpoint.save(tmp_path, name, STATE)
    path = tmp_path / "000002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="000002.safetensors is damaged.*go on from 000001"):
        checkpoint.load(tmp_path, "000002")


def test_weights_without_their_record_are_no_checkpoint(tmp_path):
    checkpoint.save(tmp_path, "000001", STATE)
    checkpoint.save(tmp_path, "000002", STATE)
    (tmp_path / "000002.json").unlink()  # as if killed between the two files
    assert checkpoint.latest(tmp_path) == "000001"


def test_a_failed_write_leaves_the_last_good_checkpoint_and_no_litter(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, "000001", STATE)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_file", full)
    with pytest.raises(UserError, match="No space left.*last good one is 000001"):
        checkpoint.save(tmp_path, "000002", STATE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000001.json", "000001.safetensors"]
    assert flat(checkpoint.load(tmp_path, "000001")) == flat(STATE)
