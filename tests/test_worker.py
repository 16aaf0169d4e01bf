"""A worker: jobs drawn together from a store, results once, cancelled and late ones dropped, and an end that loses nothing."""

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job_places import quick  # noqa: F401  a fixture
from PIL import Image
from serving import SMALL, Place, serving
from tiny import tiny_cascade

from sotediffusion.generate import generate
from sotediffusion.pictures.marks import read_marks
from sotediffusion.serve.engine.desk import Desk
from sotediffusion.serve.engine.memory import EngineLimits
from sotediffusion.serve.engine.pulse import Held, Pulse
from sotediffusion.serve.storage import schema
from sotediffusion.serve.storage.jobs import Job, JobState, Progress, StoreDown, StoredPicture, pack
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import Request, UserError

ONE_AT_A_TIME = EngineLimits(memory=2**32, live=1)
LONG = replace(SMALL, steps=1000, seed=50)
WHOLE = replace(SMALL, steps=600)  # drawn to its end, and yet a busy machine is not late with what happens meanwhile

# ruff: noqa: F811  fixtures are arguments


@pytest.fixture
def place(quick: Path) -> Iterator[Place]:
    with serving(quick) as place:
        yield place


def check_pictures(place: Place, job: Job, request: Request) -> None:
    """The job's pictures lie on the shelf and are those that `generate` draws, marks and all."""
    assert job.state == JobState.SUCCEEDED and job.error is None and job.pictures, job
    for stored, wanted in zip(job.pictures, generate(tiny_cascade(), request), strict=True):
        content = place.shelf.read(stored.name)
        with Image.open(BytesIO(content)) as image:
            difference = np.abs(np.asarray(image, dtype=int) - np.asarray(wanted.image, dtype=int))
            assert difference.max() <= 1 and read_marks(image)[1] == wanted.settings == stored.info
            assert (stored.width, stored.height) == image.size
        assert (stored.seed, stored.bytes, stored.type) == (wanted.seed, len(content), "image/png")


def test_jobs_of_all_kinds_are_drawn_together_and_each_gets_its_own_pictures(place: Place) -> None:
    file = BytesIO()
    Image.new("RGB", (70, 50), "teal").save(file, "png")
    requests = [SMALL, replace(SMALL, seed=7, count=3, sampler="euler_ancestral"), replace(SMALL, width=128, guidance=1.0)]
    ids = [place.submit(request) for request in requests]
    from_picture = replace(SMALL, init=file.getvalue(), strength=0.5)
    id = "ab" * 16
    name = place.shelf.put(id, file.getvalue())
    ids.append(place.submit(id=id, request=pack(from_picture, name)))
    for job, request in zip(place.until_ended(*ids), [*requests, from_picture], strict=True):
        check_pictures(place, job, request)
    place.until(lambda: sorted(place.ended) == sorted(ids))


def test_what_cannot_be_drawn_fails_in_words_and_harms_nobody(place: Place) -> None:
    bad = {
        "init": place.submit(request=pack(SMALL, f"ab/{'ab' * 16}/{'0' * 32}.png")),
        "loras": place.submit(loras=({"name": "somewhere", "weight": 1.0},)),
        "prompt": place.submit(replace(SMALL, prompt="loli, nsfw")),
        "width": place.submit(replace(SMALL, width=1001)),
    }
    good = place.submit(replace(SMALL, embeddings=("/a/file/that/no/job/may/name.safetensors",)))
    assert place.until_ended(good, *bad.values())[0].state == JobState.SUCCEEDED
    for field, id in bad.items():
        job = place.job(id)
        assert job.state == JobState.FAILED and job.attempts == 0 and job.error
        assert job.error.code == field and job.error.message.startswith(f"{field}: ")


def test_progress_and_previews_can_be_followed_in_the_stores(place: Place) -> None:
    id = place.submit(replace(SMALL, steps=300))
    seen = []

    def followed() -> bool:
        job = place.job(id)
        if job.progress and (not seen or seen[-1] != job.progress):
            seen.append(job.progress)
            if job.progress.preview:
                with Image.open(BytesIO(place.shelf.read(job.progress.preview))) as image:
                    assert image.format == "JPEG" and image.size == (16, 16)
        return job.state.ended

    place.until(followed)
    steps = [progress.step for progress in seen]
    assert len(seen) > 3 and steps == sorted(steps) and {progress.steps for progress in seen} == {302}
    assert seen[-1].preview and place.job(id).version > len(seen)


def test_a_job_of_another_key_need_not_wait_until_an_order_of_many_is_all_begun(quick: Path) -> None:
    with serving(quick, engine=EngineLimits(memory=2**32, live=2)) as place:
        order = replace(SMALL, count=8, steps=600)  # long enough that a busy machine is not late with the other
        many = place.submit(order)
        place.until(lambda: place.job(many).progress)
        one = place.submit(replace(SMALL, seed=9), owner="another")
        place.until_ended(one)
        job = place.job(many)
        assert job.state == JobState.RUNNING and job.progress and job.progress.step < job.progress.steps / 2
        check_pictures(place, place.until_ended(many)[0], order)


def test_a_cancelled_job_makes_place_within_a_beat(place: Place) -> None:
    long, other = place.submit(LONG), place.submit(replace(LONG, seed=9))
    place.until(lambda: (p := place.job(long).progress) and p.step > 3)
    assert place.store.cancel(long) == (JobState.RUNNING, JobState.CANCELLED)
    assert place.store.cancel(other) is not None
    child = place.supervisor.child
    place.until(lambda: place.job(place.submit(deadline=time.time() + 60)).id and child)
    place.until_ended(place.submit())
    assert place.job(long).state == JobState.CANCELLED and place.job(long).pictures is None
    assert place.supervisor.child is child


def test_a_job_past_its_deadline_expires_while_it_is_drawn_and_while_it_waits(quick: Path) -> None:
    with serving(quick, engine=ONE_AT_A_TIME) as place:
        late, waiting = place.submit(LONG), place.submit(LONG)
        place.until(lambda: place.job(late).progress)
        with place.database.write() as connection:
            connection.execute(schema.jobs.update().values(deadline=time.time()))
        assert [job.state for job in place.until_ended(late, waiting)] == [JobState.EXPIRED] * 2
        assert place.until_ended(place.submit())[0].state == JobState.SUCCEEDED


def test_a_job_that_was_lost_and_comes_back_is_drawn_anew_and_once(place: Place) -> None:
    """As when the process was stopped for longer than a lease."""
    id = place.submit(WHOLE)

    def lost(fence: int) -> bool:
        with place.database.write() as connection:
            connection.execute(schema.jobs.update().values(lease_until=1.0))
        place.store.expire()  # unless the worker's own beat does
        job = place.job(id)
        return job.state == JobState.QUEUED or job.fence > fence

    for fence in (1, 2):
        place.until(lambda fence=fence: place.job(id).fence == fence and place.job(id).progress)
        place.until(lambda fence=fence: lost(fence))  # unless a heartbeat came between
    (job,) = place.until_ended(id)
    check_pictures(place, job, WHOLE)
    assert job.fence == 3 and len(list((place.folder / "shelf").rglob("*.png"))) == 1


def test_a_worker_asked_to_end_finishes_what_runs_and_leaves_what_waits(quick: Path) -> None:
    with serving(quick, engine=ONE_AT_A_TIME) as place:
        running = place.submit(WHOLE)
        place.until(lambda: place.job(running).progress)
        waiting = place.submit()
        assert place.supervisor.child
        process = place.supervisor.child.process
        place.supervisor.stop()
        place.until(lambda: place.supervisor.over)
        assert process.poll() == 0
        check_pictures(place, place.job(running), WHOLE)
        assert place.job(waiting).state == JobState.QUEUED and place.job(waiting).attempts == 0


@pytest.mark.parametrize("settings", [{"drain": "release"}, {"drain": "finish", "drain_s": 0.2}])
def test_a_worker_that_may_not_finish_gives_its_jobs_back_uncharged(quick: Path, settings: dict) -> None:
    with serving(quick, settings=settings) as place:
        ids = [place.submit(LONG), place.submit(LONG)]
        place.until(lambda: all(place.job(id).progress for id in ids))
        assert place.supervisor.child
        process = place.supervisor.child.process
        process.send_signal(signal.SIGTERM)
        place.until(lambda: process.poll() is not None)
        assert process.poll() == 0
        for job in map(place.job, ids):
            assert (job.state, job.attempts, job.alone, job.worker) == (JobState.QUEUED, 0, False, None)
        place.supervisor.stop()
        place.until(lambda: place.supervisor.over)


def test_workers_of_one_store_share_its_jobs_and_draw_each_once(quick: Path) -> None:
    with serving(quick) as one, serving(quick) as other:
        ids = [one.submit(replace(SMALL, seed=n)) for n in range(12)]
        one.until(lambda: other.supervisor.tick() or all(one.job(id).state.ended for id in ids))
        for n, id in enumerate(ids):
            check_pictures(one, one.job(id), replace(SMALL, seed=n))
        one.until(lambda: other.supervisor.tick() or len(one.ended + other.ended) == 12)
        assert sorted(one.ended + other.ended) == sorted(ids)
        files = [path for path in (quick / "shelf").rglob("*.png")]
        assert len(files) == 12


def at_the_desk(place: Place, store: JobStore, shelf: Shelf) -> tuple[Desk, Held, list[Held]]:
    """A desk in this process, with a claimed job."""
    place.submit()
    (job,) = place.store.claim("here", ["tiny"], 1, 60)
    ended: list[Held] = []
    return Desk(store, shelf, ended.append), Held(job.id, job.fence), ended


def test_a_full_disk_fails_the_job_in_words(place: Place) -> None:
    class Full(Shelf):
        def put(self, job: str, content: bytes, suffix: str = "png") -> str:
            raise UserError("disk", "no space is left; free some")

    desk, held, ended = at_the_desk(place, place.store, Full(place.folder / "full"))
    desk.shelve(held, generate(tiny_cascade(), SMALL)[0])
    desk.close()
    job = place.job(held.id)
    assert ended == [held] and job.state == JobState.FAILED and job.error and job.error.code == "disk"


def test_a_result_waits_for_a_store_that_is_away_and_is_written_once(place: Place) -> None:
    tries = []

    class Away(JobStore):
        def succeed(self, id: str, fence: int, pictures: Sequence[StoredPicture]) -> bool:
            tries.append(id)
            if len(tries) < 3:
                raise StoreDown("made for the test")
            return super().succeed(id, fence, pictures)

    desk, held, ended = at_the_desk(place, Away(place.database), place.shelf)
    desk.shelve(held, generate(tiny_cascade(), SMALL)[0])
    desk.succeed(held)
    while desk.pending:
        time.sleep(0.01)
    desk.close()
    assert len(tries) == 3 and ended == [held]
    check_pictures(place, place.job(held.id), SMALL)


def test_the_pictures_of_a_job_that_was_cancelled_meanwhile_do_not_stay(place: Place) -> None:
    desk, held, ended = at_the_desk(place, place.store, place.shelf)
    desk.shelve(held, generate(tiny_cascade(), SMALL)[0])
    while desk.pending:
        time.sleep(0.01)
    assert len(list(place.folder.rglob("*.png"))) == 1
    place.store.cancel(held.id)
    desk.succeed(held)
    desk.close()
    assert place.job(held.id).pictures is None and not list(place.folder.rglob("*.png")) and ended == [held]


def test_a_heartbeat_ends_what_is_not_ours_any_more_and_outlives_a_store_that_is_away(place: Place) -> None:
    class Away(JobStore):
        down = False

        def heartbeat(self, *said: Any) -> Any:
            if self.down:
                raise StoreDown("made for the test")
            return super().heartbeat(*said)

    store = Away(place.database)
    ids = [place.submit(), place.submit()]
    pulse = Pulse(store, "here", 60.0, 1.0)
    first, second = (pulse.hold(job.id, job.fence) for job in store.claim("here", ["tiny"], 2, 60))
    first.progress = Progress("stage c", 1, 5)
    place.store.cancel(second.id)
    store.down = True
    pulse.beat()
    assert not first.over and not second.over and place.job(first.id).progress is None
    store.down = False
    pulse.beat()
    assert second.over and not first.over and list(pulse.held) == [first.id] and {first.id, second.id} == set(ids)
    assert place.job(first.id).progress == first.progress
