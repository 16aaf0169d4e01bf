"""The comparison of training steps compares like with like: the same losses on both sides, step after step."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "train.py"


def script():
    spec = importlib.util.spec_from_file_location("benchmarks_train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bf16", [0, 1])
def test_both_sides_take_the_same_steps(bf16):
    train = script()
    options = train.parser().parse_args(f"--size tiny --batch 2 --rows 4 --columns 3 --runs 3 --memory 0 --bf16 {bf16}".split())
    found = train.compare(options)
    assert found["largest difference of a loss"] < (0.02 if bf16 else 1e-4)
    assert found["ours"]["first losses"][2] < found["ours"]["first losses"][0]  # it learns
    assert all(0 < found[side]["MFU"] for side in train.SIDES)


def test_peaks_are_measured_in_processes_of_their_own():
    command = [sys.executable, str(SCRIPT), "--size=tiny", "--batch=1", "--rows=3", "--columns=3", "--alone=ours"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 1 < float(json.loads(result.stdout)) < 1000
