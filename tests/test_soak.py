"""A server whose processes are killed at random while clients order, cancel, read slowly and leave: nothing lost or twice."""

from pathlib import Path

import pytest
from test_benchmarks import script
from web import quick_folder

soak = script("soak")

KILLS = 20


@pytest.mark.system
def test_killed_at_random_it_loses_no_job_and_stores_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PATIENCE_S", 1200.0)
    with quick_folder() as folder:
        outcome = soak.soak(folder, soak.tiny_model(tmp_path), kill_s=60, calm_s=3, kills=KILLS)
        assert all(not found for found in outcome.faults.values()), f"{outcome}\n{(folder / 'log').read_text()[-3000:]}"
    assert outcome.kills.total() >= KILLS and min(outcome.kills["worker"], outcome.kills["server"]) > 0
    assert outcome.habits.total() >= KILLS and set(outcome.habits) == set(soak.HABITS)
    assert outcome.again > 0 and outcome.code == 0
    assert set(outcome.memory) == {"server", "worker"}


def test_growth_is_told_in_percent_of_the_mean_per_ten_minutes() -> None:
    points = [(minute / 10, 100 + (50 if minute < 100 else 0.01 * (minute - 150))) for minute in range(200)]
    assert soak.slope(points) == pytest.approx(1.0, rel=0.01)
    assert soak.slope([(float(minute), 80.0) for minute in range(10)]) == 0
