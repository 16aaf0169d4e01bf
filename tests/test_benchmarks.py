"""The benchmark scripts run, on the tiny cascade: what they print at full size is theirs to say, not a test's."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny import tiny_cascade

from sotediffusion.models.cascade import SIZES
from sotediffusion.weights.shapes import build

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICK = {"size": "tiny", "device": "cpu", "steps": 2, "decoder_steps": 1, "runs": 1, "modes": ("eager",), "batches": (1,)}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


gpu = script("gpu")


def options(**changes) -> argparse.Namespace:
    return argparse.Namespace(**{**QUICK, "budget": 500.0, **changes})


def inputs(network, tokens: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    c = network.config
    cond = network.condition(torch.randn(2, tokens, c.c_text, generator=g), torch.randn(2, 1, c.c_pooled, generator=g))
    return torch.randn(2, c.c_latent, 4, 3, generator=g), torch.rand(2, generator=g), cond


@torch.inference_mode()
def test_a_recorded_forward_gives_what_the_forward_gives_whatever_was_recorded():
    network = tiny_cascade().stage_c
    recorder = gpu.Recorder(network.forward, None)
    for tokens, seed in ((77, 1), (77, 2), (154, 3), (77, 4)):
        x, r, cond = inputs(network, tokens, seed)
        for scale in (1.0, 0.5):  # the second step of a conditioning that lies in the buffers already
            assert torch.equal(recorder(x * scale, r * scale, cond), network(x * scale, r * scale, cond))
    assert len(recorder.takes) == 2
    assert recorder.error == 0


def test_only_the_forwards_of_the_two_stages_are_replaced():
    cascade = gpu.random_cascade("tiny", torch.device("cpu"))
    text, stage_a, config = cascade.text.forward, cascade.stage_a.decode, cascade.stage_c.config
    recorders = gpu.speed_up(cascade, "graphs")
    assert [cascade.stage_c.forward, cascade.stage_b.forward] == recorders
    assert (cascade.text.forward, cascade.stage_a.decode, cascade.stage_c.config) == (text, stage_a, config)


def test_a_row_that_fails_is_reported_and_the_next_goes_on(capsys):
    gpu.table(options(modes=("graphs",), batches=(65, 2), budget=1e4))
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| graphs")]
    assert "count: 65" in rows[0][2]
    assert float(rows[1][2]) > 0 and len(rows[1]) == len(gpu.COLUMNS)
    assert "TFLOP a picture" in out


def test_a_row_that_hangs_is_stopped():
    assert "stopped after" in gpu.row_alone(options(), "eager", 1, limit=0.05)["trouble"]


def test_rows_that_no_longer_fit_the_time_budget_are_skipped(capsys):
    gpu.table(options(modes=gpu.MODES, batches=(1, 8), budget=0.0))
    assert capsys.readouterr().out.count("skipped: the time budget is spent") == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_here_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as stopped:
        gpu.main()
    assert stopped.value.code == 2
    assert "take cpu" in capsys.readouterr().err


def test_the_cards_picture_takes_568_tflop_less_what_is_done_once():
    card = gpu.settled(options(size="full", steps=30, decoder_steps=10))
    assert 0.98 * 568 < gpu.work("full", card) < 568


def test_work_grows_with_steps():
    short, long = (gpu.work("tiny", gpu.settled(options(steps=steps, decoder_steps=1))) for steps in (1, 2))
    longer = gpu.work("tiny", gpu.settled(options(steps=3, decoder_steps=1)))
    assert longer - long == pytest.approx(long - short) and long > short


def test_random_weights_draw_something_finite():
    measured = gpu.measure(options(), "eager", 1)
    assert measured["seconds"] > 0 and measured["error"] == 0


def test_full_size_opens_and_steps_a_stage_from_a_file_that_it_removes(tmp_path):
    full_size = script("full_size")
    measured = full_size.row("tiny", "stage_b", tmp_path)
    network = build("stage_b", SIZES["tiny"].stage_b)
    assert measured["parameters"] == sum(p.numel() for p in network.parameters()) == measured["weights"] / 2
    assert not list(tmp_path.iterdir())


def test_full_size_steps_stage_c_too(tmp_path):
    full_size, path = script("full_size"), tmp_path / "c.safetensors"
    full_size.write_file(path, full_size.random_weights(build("stage_c", SIZES["tiny"].stage_c)), {})
    assert full_size.open_and_step("stage_c", path)["seconds to step"] > 0


def test_the_mid_size_has_about_a_hundred_million_parameters():
    mid = script("generate").MID
    networks = [build(name, getattr(mid, name)) for name in ("text", "stage_c", "stage_b", "stage_a")]
    assert 80e6 < sum(p.numel() for network in networks for p in network.parameters()) < 150e6
