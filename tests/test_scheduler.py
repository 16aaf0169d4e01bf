"""Turns: nobody starves, runs of a key go together in the order they waited; and what memory was seen to take bounds them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.serve.engine.memory import GUESS, MARGIN, Footprints
from sotediffusion.serve.engine.pace import Pace
from sotediffusion.serve.engine.scheduler import Scheduler

RUNS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 2)), min_size=1, max_size=14)


@dataclass(eq=False)
class Run:
    kind: int
    rows: int

    @property
    def key(self) -> tuple[int]:
        return (self.kind,)


def line(runs: list[tuple[int, int]], fit: int) -> tuple[Scheduler[Run], list[Run]]:
    scheduler: Scheduler[Run] = Scheduler(lambda key: fit)
    made = [Run(*run) for run in runs]
    for run in made:
        scheduler.join(run)
    return scheduler, made


@given(RUNS, st.integers(0, 9))
def test_a_turn_is_of_one_key_and_no_larger_than_fits(runs: list[tuple[int, int]], fit: int) -> None:
    scheduler, made = line(runs, fit)
    for _ in range(20):
        group = scheduler.turn()
        assert len({run.key for run in group}) == 1
        assert sum(run.rows for run in group) <= fit or len(group) == 1
        assert sorted(map(id, scheduler.line)) == sorted(map(id, made)) and scheduler.line[-len(group) :] == group


@given(RUNS)
def test_with_room_every_run_steps_at_least_once_in_as_many_turns_as_there_are_keys(runs: list[tuple[int, int]]) -> None:
    scheduler, made = line(runs, 99)
    keys = len({run.key for run in made})
    for _ in range(5):
        stepped = [run for _ in range(keys) for run in scheduler.turn()]
        assert {id(run) for run in made} == {id(run) for run in stepped}


@given(RUNS, st.integers(0, 5))
def test_without_room_nobody_waits_for_more_turns_than_there_are_runs(runs: list[tuple[int, int]], fit: int) -> None:
    scheduler, made = line(runs, fit)
    waited = dict.fromkeys(map(id, made), 0)
    for _ in range(60):
        group = scheduler.turn()
        for run in made:
            waited[id(run)] = 0 if run in group else waited[id(run)] + 1
        assert max(waited.values()) < max(len(made), 2)


def test_who_has_waited_longest_names_the_key_and_joins_and_leaves_count_at_once() -> None:
    scheduler, (a, b, c) = line([(0, 2), (1, 2), (0, 2)], 9)
    assert scheduler.turn() == [a, c]
    late = Run(0, 1)
    scheduler.join(late)
    assert scheduler.turn() == [b]
    scheduler.leave(c)
    assert scheduler.turn() == [a, late] and scheduler.turn() == [b]
    for run in (a, b, late):
        scheduler.leave(run)
    assert scheduler.turn() == []


C, WIDE = ("model", "stage c", (16, 24, 24)), ("model", "stage c", (16, 24, 48))


def test_what_nothing_is_known_of_goes_one_by_one_until_it_is_measured() -> None:
    prints = Footprints()
    assert prints.fit(C, 1e12) == 1 and prints.unsure(C, 1)
    prints.note(C, 2, 400)
    assert prints.fit(C, 2400) == 10 and prints.fit(C, 100) == 0


def test_another_shape_is_guessed_from_the_nearest_of_its_phase_until_it_is_measured() -> None:
    prints = Footprints()
    prints.note(C, 1, 100)
    prints.note(("model", "stage c", (16, 2, 2)), 1, 90)
    assert prints.per_row(WIDE) == GUESS * 200
    assert prints.per_row(("model", "stage b", (4, 8, 8))) is None and prints.per_row(("other", *C[1:])) is None
    prints.note(WIDE, 1, 150)
    assert prints.per_row(WIDE) == MARGIN * 150


def test_the_first_reading_counts_least_and_the_largest_forward_most() -> None:
    prints = Footprints()
    prints.note(C, 2, 1000)  # with all that is made once
    assert prints.unsure(C, 2) and not prints.unsure(C, 1)
    prints.note(C, 2, 200)
    prints.note(C, 2, 220)
    assert prints.per_row(C) == MARGIN * 110 and not prints.unsure(C, 2) and prints.unsure(C, 3)
    prints.note(C, 8, 640)
    prints.note(C, 2, 9000)
    assert prints.per_row(C) == MARGIN * 80


@given(st.lists(st.integers(1, 64), min_size=1), st.floats(0, 1e15))
def test_rows_at_which_the_memory_ran_out_are_not_tried_again(refusals: list[int], room: float) -> None:
    prints = Footprints()
    prints.note(C, 1, 1)
    for rows in refusals:
        prints.refuse(C, rows)
    assert prints.fit(C, room) <= max(min(refusals) // 2, 1)


def test_a_job_ends_when_its_steps_at_their_pace_are_done() -> None:
    pace = Pace()
    assert pace.left([(C, 3)]) is None and pace.left([(C, 0)]) == 0
    pace.note(C, 2.0)
    pace.note(WIDE, 1.0)
    pace.note(WIDE, 6.0)
    assert pace.left([(C, 3), (WIDE, 2)]) == 3 * 2.0 + 2 * 2.0


def test_choosing_turns_loads_no_torch() -> None:
    modules = ", ".join(f"sotediffusion.serve.engine.{name}" for name in ("scheduler", "memory", "pace", "supervisor", "gauge"))
    code = f"import {modules}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
