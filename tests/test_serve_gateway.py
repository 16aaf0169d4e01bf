"""A server that draws nothing itself: it takes jobs in and shows what others draw."""

from pathlib import Path

import pytest
from test_serve_run import opened, told


def test_without_a_worker_it_is_ready_and_has_nothing_to_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = opened(tmp_path, monkeypatch, worker_here=False)
    assert gateway.keeper.workers is None and gateway.keeper.drained and gateway.house.ready() and not gateway.house.trouble()
    assert b"sote_worker_ready 0.0" in gateway.house.metrics.render()
    assert opened(tmp_path, monkeypatch).keeper.workers is not None
    assert not told(monkeypatch, "--data", str(tmp_path), "--no-worker").worker_here
    assert told(monkeypatch, "--data", str(tmp_path)).worker_here
