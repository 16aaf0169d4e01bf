"""The engine: a picture is the same alone and in a crowd that comes and goes; turns, cancelling, memory and previews."""

import random
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_cascade

from sotediffusion.generate import generate
from sotediffusion.models.stage_b import StageB
from sotediffusion.models.stage_c import StageC
from sotediffusion.pictures.files import encode_picture
from sotediffusion.pictures.marks import read_marks
from sotediffusion.serve.engine import gauge
from sotediffusion.serve.engine.engine import Engine, News
from sotediffusion.serve.engine.memory import EngineLimits as Limits
from sotediffusion.serve.engine.orders import keys_of, resting_bytes
from sotediffusion.serve.engine.residents import Residents
from sotediffusion.types import Picture, Request, UserError
from sotediffusion.weights.store import save_cascade

LONG = "cat ears, pink hair, long hair, " * 24  # three chunks of 77 tokens
SMALL = Request("1girl, cat ears", "oldest", 64, 64, steps=3, decoder_steps=2, seed=1)
CROWD = [
    SMALL,
    replace(SMALL, prompt=LONG, seed=2, steps=5, guidance=3.0, decoder_guidance=1.0),
    replace(SMALL, seed=3, guidance=1.0, decoder_guidance=2.5, sampler="dpmpp_2m", schedule="karras", rescale=0.7),
    replace(SMALL, negative=LONG, seed=4, steps=2, decoder_steps=4, sampler="euler_ancestral", decoder_sampler="lcm", shift=2.0),
    replace(SMALL, prompt="(hat:1.3)", seed=5, guidance=0.0, decoder_guidance=0.5, decoder_sampler="dpmpp_2m_sde", count=2),
    replace(SMALL, prompt="{red|blue} hat", seed=8, width=128, steps=4),
]


class Here(Residents):
    """Models that tests made in memory."""

    def __init__(self, **cascades: Any):
        made = cascades or {"tiny": tiny_cascade()}
        super().__init__({name: Path(name) for name in made}, opener=lambda path, dtype, device: made[path.name])


def engine(**limits: Any) -> Engine:
    return Engine(Here(), Limits(**{"memory": 2**32, "preview_steps": 0, **limits}))


def through(engine: Engine, ticks: int = 500) -> list[News]:
    news: list[News] = []
    while not engine.idle:
        news += engine.tick()
        ticks -= 1
        assert ticks
    assert not engine.scheduler.line
    return news


def pictures_of(news: list[News]) -> dict[tuple[str, int], Picture]:
    assert not [entry.error for entry in news if entry.error]
    return {(entry.id, entry.picture.seed): entry.picture for entry in news if entry.picture}


def same(got: Picture, want: Picture) -> None:
    assert np.abs(np.asarray(got.image, dtype=int) - np.asarray(want.image, dtype=int)).max() <= 1
    assert got.settings == want.settings


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, int], Picture]:
    return {(str(n), p.seed): p for n, request in enumerate(CROWD) for p in generate(tiny_cascade(), request)}


@settings(max_examples=4)
@given(order=st.permutations(range(len(CROWD))), gaps=st.lists(st.integers(0, 4), min_size=len(CROWD), max_size=len(CROWD)))
def test_a_picture_in_a_crowd_that_comes_and_goes_is_the_one_that_generate_draws(
    order: list[int], gaps: list[int], alone: dict[tuple[str, int], Picture]
) -> None:
    crowd, news = engine(), []
    for n, gap in zip(order, gaps, strict=True):
        crowd.add(str(n), "tiny", CROWD[n])
        news += [entry for _ in range(gap) for entry in crowd.tick()]
    drawn = pictures_of(news + through(crowd))
    assert drawn.keys() == alone.keys()
    for name, picture in drawn.items():
        same(picture, alone[name])


def test_those_who_come_and_go_beside_a_long_drawing_never_get_each_others_words() -> None:
    """Many short lives beside a long one: whatever is kept for a batch belongs to those who are in it now."""
    words = "red,blue,hat,sea,sky,cat,dog,sun,ice,tea".split(",")
    short = [replace(SMALL, prompt=word, seed=n, steps=1, decoder_steps=1) for n, word in enumerate(words * 4)]
    wanted = [generate(tiny_cascade(), request)[0] for request in short]
    beside = engine()
    beside.add("long", "tiny", replace(SMALL, steps=900))
    for n, request in enumerate(short):
        beside.add(str(n), "tiny", request)
        drawn: dict[tuple[str, int], Picture] = {}
        while not drawn:
            drawn = pictures_of(beside.tick())
        same(drawn[str(n), n], wanted[n])
    assert list(beside.orders) == ["long"]


def test_a_small_order_begins_and_ends_while_a_large_one_goes_on() -> None:
    both = engine()
    both.add("large", "tiny", replace(SMALL, width=2048, height=1152, steps=1, decoder_steps=12))
    for _ in range(2):
        both.tick()
    both.add("small", "tiny", SMALL)
    ticks, before = 0, both.orders["large"].step
    while "small" in both.orders:
        both.tick()
        ticks += 1
    assert ticks <= 2 * (SMALL.steps + SMALL.decoder_steps)  # every other turn is its own
    assert before < both.orders["large"].step < 12


def test_who_joins_steps_along_from_the_next_tick_and_who_is_cancelled_frees_the_row() -> None:
    forwards: list[int] = []
    both = Engine(Here(tiny=watched(forwards)), Limits(memory=2**32))
    long = replace(SMALL, steps=9, guidance=1.0)
    both.add("first", "tiny", long)
    both.tick()
    both.add("second", "tiny", replace(long, guidance=3.0))
    both.tick()
    both.tick()
    both.cancel("second")
    both.cancel("nobody")
    both.tick()
    assert forwards == [1, 3, 3, 1] and len(both.scheduler.line) == 1
    both.cancel("first")
    assert both.idle and both.tick() == [] and not both.scheduler.line


def test_a_cancelled_order_is_not_begun_again_and_leaves_nothing_behind() -> None:
    crowd = engine(live=2)
    crowd.add("many", "tiny", replace(SMALL, count=5))
    crowd.add("one", "tiny", replace(SMALL, seed=7))
    crowd.tick()
    crowd.cancel("many")
    assert {entry.id for entry in through(crowd)} == {"one"}


def test_an_order_given_again_takes_the_place_of_the_first() -> None:
    crowd = engine()
    crowd.add("one", "tiny", replace(SMALL, steps=50))
    crowd.tick()
    crowd.add("one", "tiny", SMALL)
    (picture,) = pictures_of(through(crowd, 6)).values()
    same(picture, generate(tiny_cascade(), SMALL)[0])


def test_places_go_to_who_has_fewest_so_that_an_order_of_many_lets_others_in() -> None:
    crowd = engine(live=3)
    crowd.add("many", "tiny", replace(SMALL, count=6))
    crowd.tick()
    crowd.add("one", "tiny", replace(SMALL, seed=99))
    ends = [entry.id for entry in through(crowd) if entry.event.stage == "done"]
    assert ends == ["one", "many"]


def test_no_order_is_asked_for_while_one_waits_to_begin() -> None:
    crowd = engine(live=2)
    assert crowd.room == 2
    crowd.add("many", "tiny", replace(SMALL, count=3))
    assert crowd.room == 0
    crowd.tick()
    crowd.add("one", "tiny", SMALL)
    assert crowd.room == 0 and not crowd.orders["one"].seats
    through(crowd)
    assert crowd.room == 2


def test_before_an_order_of_many_gets_another_place_others_are_asked_for() -> None:
    crowd = engine(live=2)
    crowd.add("many", "tiny", replace(SMALL, count=6))
    crowd.tick()
    while not crowd.orders["many"].done:
        assert crowd.room == 0
        crowd.tick()
    assert crowd.room == 1
    crowd.add("one", "tiny", replace(SMALL, seed=99))
    crowd.tick()
    assert crowd.orders["one"].seats and len(crowd.orders["many"].waiting) == 4


def test_owners_share_the_places_whether_they_ask_for_one_order_or_for_many() -> None:
    crowd, asked, shares = engine(live=4), 0, []
    crowd.add("many", "tiny", replace(SMALL, count=24), "ann")
    while crowd.orders.keys() & {"many"}:
        for _ in range(crowd.room):
            asked += 1
            crowd.add(f"small {asked}", "tiny", replace(SMALL, seed=asked, steps=3 + asked % 3), "bob")
        crowd.tick()
        shares += [sum(seat.order.owner == "bob" for seat in crowd.scheduler.line)]
    assert max(shares[:20]) == max(shares) == 2 and sum(shares) >= len(shares)


def test_news_of_an_order_count_the_steps_of_all_its_pictures_and_never_go_back() -> None:
    crowd = engine(live=2)
    crowd.add("many", "tiny", replace(SMALL, count=3))
    news = through(crowd)
    steps = [entry.event.step for entry in news]
    assert steps == sorted(steps) and {entry.event.steps for entry in news} == {3 * 5}
    assert news[-1].event.stage == "done" and news[-1].event.step == 15
    assert [entry.event.stage for entry in news if entry.picture] == ["stage c", "stage c", "done"]
    together = through(started(crowd, replace(SMALL, count=2)))
    assert [entry.event.stage for entry in together if entry.picture] == ["stage a", "done"]


def test_the_time_left_is_known_after_one_picture_and_falls_to_nothing() -> None:
    now = iter(range(10**6))
    crowd = Engine(Here(), Limits(memory=2**32), clock=lambda: next(now))
    crowd.add("first", "tiny", SMALL)
    assert all(entry.eta is None for entry in through(crowd) if not entry.picture)
    crowd.add("next", "tiny", replace(SMALL, count=2))
    left = [entry.eta for entry in through(crowd)]
    assert None not in left and (left[0] or 0) > (left[-2] or 0) > 0 == left[-1]


def test_previews_come_every_few_steps_of_the_prior_and_at_its_end() -> None:
    shown = engine(preview_steps=2)
    shown.add("one", "tiny", replace(SMALL, steps=5))
    looks = [entry.event.step for entry in through(shown) if entry.event.preview]
    assert looks == [2, 4, 5]
    assert not [entry for entry in through(started(engine(), SMALL)) if entry.event.preview]
    blind = Engine(Here(tiny=replace(tiny_cascade(), previewer=None)), Limits(memory=2**32))
    assert not [entry for entry in through(started(blind, SMALL)) if entry.event.preview]


def test_an_init_picture_is_given_as_bytes_and_a_bad_one_fails_its_own_order_only() -> None:
    file = BytesIO()
    Image.new("RGB", (70, 50), "teal").save(file, "png")
    request = replace(SMALL, init=file.getvalue(), strength=0.5)
    crowd = engine()
    crowd.add("good", "tiny", request)
    crowd.add("bad", "tiny", replace(SMALL, init=b"no picture"))
    crowd.add("refused", "tiny", replace(SMALL, prompt="loli, nsfw"))
    news = through(crowd)
    errors = {entry.id: entry.error.field for entry in news if entry.error}
    assert errors == {"bad": "init", "refused": "prompt"}
    same(next(entry.picture for entry in news if entry.picture), generate(tiny_cascade(), request)[0])


@pytest.mark.parametrize("changes", [{"count": 0}, {"width": "wide"}, {"seed": 2**64}, {"steps": 0}])
def test_values_out_of_range_are_refused_before_they_take_a_place(changes: dict[str, Any]) -> None:
    crowd = engine()
    with pytest.raises(UserError) as found:
        crowd.add("bad", "tiny", replace(SMALL, **changes))
    assert found.value.field in changes and crowd.idle


def test_pictures_carry_the_settings_and_marks_that_the_command_writes() -> None:
    (picture,) = pictures_of(through(started(engine(), SMALL))).values()
    with Image.open(BytesIO(encode_picture(picture))) as image:
        infotext, settings_inside = read_marks(image)
    assert settings_inside == generate(tiny_cascade(), SMALL)[0].settings and settings_inside["ai_generated"] is True
    assert infotext.startswith("1girl, cat ears\nNegative prompt: oldest\nSteps: 3, ")


def started(engine: Engine, *requests: Request) -> Engine:
    for n, request in enumerate(requests):
        engine.add(str(n), "tiny", request)
    return engine


def of_kind(part: str, kind: type, **extra: Any) -> Any:
    """The tiny cascade with one network of another class, same weights."""
    own = getattr(tiny_cascade(), part)
    network = kind(own.config).eval().requires_grad_(False)
    network.load_state_dict(own.state_dict())
    vars(network).update(extra)
    return replace(tiny_cascade(), **{part: network})


def watched(forwards: list[int]) -> Any:
    class Watched(StageC):
        def forward(self, x: Any, r: Any, cond: Any) -> Any:
            forwards.append(len(x))
            return super().forward(x, r, cond)

    return of_kind("stage_c", Watched)


def tight(part: str, base: type, rows: int, before: Callable[[], None] = lambda: None) -> Any:
    """A network whose memory runs out above so many rows."""

    class Tight(base):
        def forward(self, x: Any, r: Any, cond: Any) -> Any:
            before()
            if len(x) > rows:
                raise torch.OutOfMemoryError("made for the test")
            return super().forward(x, r, cond)

    return of_kind(part, Tight)


@pytest.mark.parametrize(("part", "base"), [("stage_c", StageC), ("stage_b", StageB)])
def test_where_the_memory_runs_out_fewer_go_and_the_pictures_are_the_same(part: str, base: type) -> None:
    orders = [replace(SMALL, seed=n, sampler="euler_ancestral", decoder_sampler="ddpm", prompt=f"hat {n}") for n in range(5)]
    wanted = [generate(tiny_cascade(), request)[0] for request in orders]
    crowd = Engine(Here(tiny=tight(part, base, 4)), Limits(memory=2**32))
    for picture in pictures_of(through(started(crowd, *orders))).values():
        same(picture, wanted[picture.seed])
    assert {seen.refused for seen in crowd.footprints.known.values()} - {None}


def test_a_step_whose_memory_runs_out_half_way_is_taken_again_with_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the forward, when some runs have drawn their noise already."""
    from sotediffusion import generate as drawing

    orders = [replace(SMALL, seed=n, sampler="euler_ancestral") for n in range(4)]
    wanted = [generate(tiny_cascade(), request)[0] for request in orders]
    advance, chance = drawing.advance, random.Random(3)

    def failing(*arguments: Any) -> Any:
        if chance.random() < 0.4 and len(arguments[0]) > 1:
            raise torch.OutOfMemoryError("made for the test")
        return advance(*arguments)

    monkeypatch.setattr(drawing, "advance", failing)
    crowd = started(engine(), *orders)
    for picture in pictures_of(through(crowd)).values():
        same(picture, wanted[picture.seed])
    assert {seen.refused for seen in crowd.footprints.known.values()} - {None}


def test_an_order_that_is_too_much_beside_others_is_drawn_alone_and_one_that_is_too_much_alone_fails_in_words() -> None:
    class Tight(StageB):
        def forward(self, x: Any, r: Any, cond: Any) -> Any:
            width = 4 * x.shape[-1]
            if width == 256 or (width == 128 and len(crowd.scheduler.line) > 1):
                raise torch.OutOfMemoryError("made for the test")
            return super().forward(x, r, cond)

    crowd = Engine(Here(tiny=of_kind("stage_b", Tight)), Limits(memory=2**32))
    orders = [replace(SMALL, seed=0, steps=9), replace(SMALL, seed=1, width=128), replace(SMALL, seed=2, width=256)]
    news = through(started(crowd, *orders, replace(SMALL, seed=3)))
    assert [(entry.id, entry.error.field) for entry in news if entry.error] == [("2", "size")]
    drawn = {entry.id: entry.picture for entry in news if entry.picture}
    assert drawn.keys() == {"0", "1", "3"}
    same(drawn["1"], generate(tiny_cascade(), orders[1])[0])


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    class Broken(StageC):
        def forward(self, x: Any, r: Any, cond: Any) -> Any:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        through(started(Engine(Here(tiny=of_kind("stage_c", Broken)), Limits(memory=2**32)), SMALL))


def test_rows_follow_what_was_measured() -> None:
    """With room for about three rows of Stage B more than two guided pictures never share its forward."""
    forwards: list[int] = []

    class Watched(StageB):
        def forward(self, x: Any, r: Any, cond: Any) -> Any:
            forwards.append(len(x))
            return super().forward(x, r, cond)

    orders = [replace(SMALL, seed=n, width=512, height=512) for n in range(4)]
    plenty = Engine(Here(tiny=of_kind("stage_b", Watched)), Limits(memory=2**32))
    through(started(plenty, *orders))
    assert max(forwards) == 8 and len(plenty.footprints.known) == 3
    key = next(key for key in plenty.footprints.known if key[1] == "stage b")
    row = plenty.footprints.per_row(key)
    assert row is not None and row > 2**20
    held = plenty.residents.bytes + 2 * 4 * plenty.heaviest["tiny"]
    forwards.clear()
    scarce = Engine(Here(tiny=of_kind("stage_b", Watched)), Limits(memory=int(held + 5 * row)))
    scarce.footprints = plenty.footprints
    through(started(scarce, *orders))
    assert 2 <= max(forwards) <= 6


def test_admission_waits_until_what_runs_come_to_hold_fits() -> None:
    heaviest = 2**30
    scarce = engine(memory=int(tiny_bytes() + 2 * 3.5 * heaviest))
    scarce.heaviest["tiny"] = heaviest
    most, news = 0, []
    started(scarce, *[replace(SMALL, seed=n) for n in range(6)])
    while not scarce.idle:
        news += scarce.tick()
        most = max(most, len(scarce.scheduler.line))
    assert most == 3 and len(pictures_of(news)) == 6


def tiny_bytes() -> int:
    residents = Here()
    residents.use("tiny")
    return residents.bytes


def test_keys_and_resting_bytes_are_those_of_the_runs() -> None:
    one = started(engine(), replace(SMALL, width=128, height=192))
    seen, held = set(), 0
    while not one.idle:
        seen |= {seat.key for seat in one.scheduler.line}
        held = max([held, *(resting_bytes(seat.run) for seat in one.scheduler.line)])
        one.tick()
    keys = keys_of("tiny", tiny_cascade(), replace(SMALL, width=128, height=192, compression=42.67))
    assert seen == {keys["stage c"], keys["stage b"]} and set(one.footprints.known) == set(keys.values())
    text = 2 * 77 * 32 * 4
    assert text < held < 100 * text


def test_measured_memory_is_what_the_work_took() -> None:
    size = 512 * 2**20  # beside which it is little that the kernel counts late, thread by thread

    def work() -> None:
        torch.ones(size // 4).add_(1)

    for _ in range(2):
        taken = gauge.peak("cpu", work)
        assert taken is not None and 0.99 * size < taken < 1.2 * size
    assert 2**28 < gauge.budget("cpu") < 2**50


def test_the_limit_of_a_service_counts_where_it_is_lower_than_the_machine_s(tmp_path: Path) -> None:
    group, own = tmp_path / "system.slice" / "sote.service", tmp_path / "cgroup"
    group.mkdir(parents=True)
    own.write_text("4:memory:/x\n0::/system.slice/sote.service\n")
    assert gauge._left_in_group(tmp_path, own) == float("inf")
    for folder, limit, taken in ((group, "max", 5), (group.parent, "1000", 300)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{taken}\n")
    assert gauge._left_in_group(tmp_path, own) == 700


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models in folders, alike but for their names."""
    places = {name: tmp_path_factory.mktemp("models") / name for name in ("one", "two", "three")}
    for name, place in places.items():
        save_cascade(replace(tiny_cascade(), name=name), place)
    return places


def test_models_are_opened_when_asked_for_and_stay_while_the_memory_lasts(folders: dict[str, Path]) -> None:
    residents = Residents(folders)
    plenty = Engine(residents, Limits(memory=2**32))
    for name in ("one", "two", "one"):
        plenty.add(name, name, SMALL)
        (picture,) = pictures_of(through(plenty)).values()
        assert picture.settings["model"] == name
    assert list(residents.opened) == ["two", "one"]
    with pytest.raises(UserError, match="nearest first, three"):
        plenty.add("x", "thre", SMALL)


def test_where_memory_is_for_one_model_they_take_turns_and_every_order_is_drawn(folders: dict[str, Path]) -> None:
    residents = Residents(folders)
    weights = 0
    scarce = Engine(residents, Limits(memory=2**32))
    scarce.add("first", "one", SMALL)
    through(scarce)
    weights = residents.bytes
    scarce.memory = int(1.9 * weights)
    for n in range(3):
        for name in folders:
            scarce.add(f"{name} {n}", name, replace(SMALL, seed=n))
    opened, news = [list(residents.opened)], []
    while not scarce.idle:
        news += scarce.tick()
        assert len(residents.opened) == 1
        opened += [list(residents.opened)] if opened[-1] != list(residents.opened) else []
    assert len(pictures_of(news)) == 9 and len(opened) <= 4
    assert Residents(folders)._needed("one") == pytest.approx(weights, rel=0.01)
    assert Residents(folders, "bfloat16")._needed("one") == pytest.approx(weights / 2, rel=0.01)


def test_weights_that_cannot_be_read_fail_their_orders_and_nobody_else_s(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.toml").write_text("[stage_c]\n")
    both = Engine(Residents({**folders, "broken": tmp_path / "broken"}), Limits(memory=2**32))
    both.add("good", "one", SMALL)
    both.add("bad", "broken", SMALL)
    both.tick()
    news = through(both)
    assert [entry.id for entry in news if entry.picture] == ["good"]
