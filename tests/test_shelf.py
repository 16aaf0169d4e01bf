"""The shelf: whole files under names of the server's making, on a disk and in an object store."""

import logging
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_places import clock, order, quick  # noqa: F401  fixtures
from killed_workers import kill, start

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import StoredPicture, new_id
from sotediffusion.serve.storage.retention import remove_stale, sweep
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import UserError

# ruff: noqa: F811  fixtures are arguments

JOB = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def s3():
    """A bucket of a local S3 server."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("pictures")
        yield "s3://pictures"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["disk", "memory", "s3"])
def shelf(request, quick):
    if request.param == "s3":
        return Shelf(f"{request.getfixturevalue('s3')}/{new_id()}")
    return Shelf(quick / "shelf" if request.param == "disk" else f"memory://{new_id()}", reserve=0)


def test_what_is_put_is_read_back_under_a_name_that_nobody_chose(shelf):
    names = [shelf.put(JOB, content, "webp") for content in (b"one", b"two", b"one")]
    assert len(set(names)) == 3 and all(name.startswith(f"01/{JOB}/") for name in names)
    assert [shelf.read(name) for name in names] == [b"one", b"two", b"one"]
    assert list(shelf.jobs()) == [JOB] and set(shelf.written(JOB)) == set(names)
    assert all(abs(when - time.time()) < 60 for when in shelf.written(JOB).values())


def test_a_preview_takes_the_place_of_the_one_before_and_another_run_has_its_own(shelf):
    name = shelf.put_preview(JOB, 1, b"early")
    assert shelf.put_preview(JOB, 1, b"late") == name != shelf.put_preview(JOB, 2, b"again")
    assert shelf.read(name) == b"late"


def test_removed_is_gone_and_removing_again_is_no_fault(shelf):
    kept, gone = shelf.put(JOB, b"kept"), shelf.put(JOB, b"gone")
    for _ in range(2):
        shelf.remove([gone])
    with pytest.raises(FileNotFoundError):
        shelf.read(gone)
    assert shelf.read(kept) == b"kept"
    for _ in range(2):
        shelf.remove_job(JOB)
    assert list(shelf.jobs()) == []


@given(
    st.text()
    | st.sampled_from(["", "/etc/passwd", "../jobs.sqlite", f"01/{JOB}/../../x.png", f"01/{JOB}/a.png\n", f"01/{JOB}/.x.part",
                       f"02/{JOB}/a.png", f"01/{JOB}/a.svg", f"01/{JOB.upper()}/a.png", "memory://x"])
)  # fmt: skip
def test_a_name_that_no_shelf_made_is_not_here(name):
    shelf = Shelf("memory://names")
    with pytest.raises(FileNotFoundError):
        shelf.read(name)
    shelf.remove([name])
    with pytest.raises(FileNotFoundError):
        shelf.put(name, b"x")
    with pytest.raises(FileNotFoundError):
        shelf.remove_job(name)


def test_an_unknown_kind_of_file_is_refused(shelf):
    with pytest.raises(UserError, match="suffix: 'svg'"):
        shelf.put(JOB, b"<svg/>", "svg")


def replace_for_ever(folder, size):
    shelf, number = Shelf(folder, reserve=0), 0
    while True:
        number = (number + 1) % 256
        shelf.put_preview(JOB, 1, bytes([number]) * size)


def test_a_file_is_whole_whenever_its_writer_is_killed(quick):
    size, seen = 2**20, set()
    shelf = Shelf(quick, reserve=0)
    shelf.put_preview(JOB, 1, bytes(size))
    for _ in range(5):
        writer = start(replace_for_ever, quick, size)
        end = time.monotonic() + 30
        before = len(seen)
        while len(seen) < before + 2 and time.monotonic() < end:
            content = shelf.read(next(iter(shelf.written(JOB))))
            assert len(content) == size and len(set(content[:: size // 64])) == 1
            seen.add(content[0])
        kill(writer)
    assert len(seen) > 4


def fill(folder, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        Shelf(folder, reserve=0).put(JOB, b"x" * 2000)
    except UserError as error:
        Path(answers).write_text(str(error))


def test_a_disk_that_takes_no_more_is_said_in_words_and_leaves_nothing_half_written(quick):
    start(fill, quick / "shelf", quick / "answer").join(60)
    assert (quick / "answer").read_text().startswith("disk: ")
    assert [path for path in (quick / "shelf").rglob("*") if path.is_file()] == []


def test_a_disk_that_is_nearly_full_takes_no_new_jobs(quick):
    Shelf(quick, reserve=1).check_room()
    with pytest.raises(UserError, match="MiB must stay free; delete pictures"):
        Shelf(quick, reserve=2**62).check_room()
    Shelf("memory://room", reserve=2**62).check_room()


def test_an_object_store_that_does_not_answer_or_has_no_such_bucket_is_said_in_words(s3, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    with pytest.raises(UserError, match="disk: s3://nowhere"):
        Shelf("s3://nowhere/x").put(JOB, b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    calls = (lambda shelf: shelf.put(JOB, b"x"), lambda shelf: shelf.read(f"01/{JOB}/ab.png"), lambda shelf: list(shelf.jobs()))
    for call in calls:
        with pytest.raises(UserError, match="disk: s3://pictures"):
            call(Shelf(f"{s3}/x"))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("place", ["/proc/none/shelf", "nosuch://bucket/x", "s4://user:secret@host/x"])
def test_a_place_that_cannot_be_opened_is_said_without_its_password(place):
    with pytest.raises(UserError) as refusal:
        Shelf(place).put(JOB, b"x")
    assert refusal.value.field == "shelf" and "secret" not in str(refusal.value) + repr(Shelf(place))


def test_the_folder_is_private(quick):
    shelf = Shelf(quick / "new")
    shelf.put(JOB, b"x")
    assert (quick / "new").stat().st_mode & 0o077 == 0


def finished(store, shelf, count=1, favourite=False):
    """A job that is done, its pictures on the shelf."""
    job = order()
    init = shelf.put(job.id, b"init")
    store.submit(replace(job, request={"prompt": "x", "init": init}))
    [job] = store.claim("w", ["m"], 1, 30)
    shelf.put_preview(job.id, job.fence, b"preview")
    pictures = [StoredPicture(shelf.put(job.id, b"done"), 8, 8, n, favourite=favourite) for n in range(count)]
    assert store.succeed(job.id, job.fence, pictures)
    return store.get(job.id)


def test_after_the_retention_jobs_go_with_all_their_files(shelf, quick, clock):
    store = JobStore(Database(quick / "jobs.sqlite", clock))
    old, starred = finished(store, shelf, 2), finished(store, shelf, favourite=True)
    clock.now += 1000
    new = finished(store, shelf)
    assert remove_stale(store, shelf, 500) == 1
    assert store.get(old.id) is None and set(shelf.jobs()) == {starred.id, new.id}
    assert remove_stale(store, shelf, 500) == 0


def test_files_that_no_job_knows_are_swept_and_all_others_stay(shelf, quick):
    store = JobStore(Database(quick / "jobs.sqlite"))
    done, running = finished(store, shelf), store.submit(order())
    stray = [shelf.put(done.id, b"of one that was killed"), shelf.put(new_id(), b"of nobody")]
    kept = [done.pictures[0].name, done.request["init"], shelf.put(running.id, b"of one that still draws")]
    assert sweep(store, shelf) == 0  # too young
    assert sweep(store, shelf, grace_s=-60) == 3  # and the preview
    for name in stray:
        with pytest.raises(FileNotFoundError):
            shelf.read(name)
    assert all(shelf.read(name) for name in kept)
