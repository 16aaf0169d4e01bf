"""A catalogue in an object store: the same engine against a local S3 server."""

import logging
import threading
import time
import uuid

import numpy as np
import pytest
from click.testing import CliRunner
from curate_run import calls, curate, steps_of, write
from PIL import Image

from sotediffusion.cli.curate import group
from sotediffusion.curate import catalogue
from sotediffusion.curate.dedupe.reference import read_reference
from sotediffusion.curate.engine.lock import only_writer
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.scan.sources import open_source
from sotediffusion.types import UserError

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
KEY = "key-that-nobody-may-see"


@pytest.fixture
def bucket(monkeypatch):
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"pictures-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/catalogue"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_catalogue_in_an_object_store_is_the_same_and_a_second_run_does_nothing(tmp_path, bucket):
    write(tmp_path, {number: f"picture {number} of many" for number in range(6)} | {2: "short", 3: "looks wrong to a tagger"})
    _, version = curate(tmp_path, out=bucket)
    assert version.kept == 4 and version.reasons == {"policy": 1, "too short": 1}
    curate(tmp_path, out=tmp_path / "disk")
    assert rows(bucket) == rows(tmp_path / "disk")
    calls(tmp_path)
    _, again = curate(tmp_path, out=bucket)
    assert again is None and not calls(tmp_path)
    _, moved = curate(tmp_path, out=bucket, steps=steps_of(tmp_path, least=3))
    assert moved.kept == 5 and len(catalogue.versions(Store(bucket))) == 2


def rows(place):
    return sorted(catalogue.read(place).to_table().to_pylist(), key=lambda row: row["row"])


def test_only_one_writes_to_an_object_store_and_a_stale_lock_is_taken_over(bucket, monkeypatch):
    store = Store(bucket)
    with only_writer(store):
        with pytest.raises(UserError, match="is writing to"), only_writer(Store(bucket)):
            pass
    with only_writer(store):
        store.write("run.lock", b'{"host": "elsewhere", "process": 1, "since": "long ago", "renewed": 0}')
        with only_writer(Store(bucket)):
            pass
    assert not [thread for thread in threading.enumerate() if "(renew)" in thread.name]


def test_a_lock_outlives_a_store_that_did_not_answer_once_and_who_lost_it_writes_no_more(tmp_path, bucket, monkeypatch):
    monkeypatch.setattr("sotediffusion.curate.engine.lock.RENEW", 0.02)
    other, write_once, said = b'{"token": "another run"}', Store.write, []

    def silent_once(store, name, content):
        said.append(name)
        if len(said) == 1:
            raise UserError("out", "it does not answer")
        write_once(store, name, content)

    monkeypatch.setattr(Store, "write", silent_once)
    store = Store(bucket)
    with only_writer(store):
        until(lambda: len(said) > 2)
        store.write("a", b"one")
        until(lambda: Store(bucket).write("run.lock", other) or store.taken)  # again where a renewal was just on its way
        with pytest.raises(UserError, match="^out: .* was taken over by another run"):
            store.write("a", b"two")
    assert store.read("run.lock") == other and store.read("a") == b"one"


def until(yes):
    end = time.monotonic() + 60
    while not yes():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_store_that_no_longer_answers_is_one_sentence_and_no_thousand_quarantines(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    store, pile = Store(bucket), bucket.replace("catalogue", "pile")
    s3fs.S3FileSystem().pipe_file(f"{pile}/a.png", b"one")
    store.write("a", b"one")
    source = open_source(pile)
    assert source.read_all(["a.png", "b.png"])[0] == store.read("a") == b"one"
    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", lambda *asked: 1 / 0)
    monkeypatch.setattr("aiobotocore.httpsession.AIOHTTPSession.send", lambda *asked: 1 / 0)
    for ask in (store.read, store.names, store.exists, store.remove, lambda name: store.write(name, b"two")):
        with pytest.raises(UserError, match=f"^out: {bucket} does not answer .*run the same command again"):
            ask("a")
    for ask in (source.read, lambda path: source.read_all([path, "b.png"]), lambda path: list(source.listing())):
        with pytest.raises(UserError, match=f"^source: {pile} does not answer .*run the same command again"):
            ask("a.png")


def test_keys_are_nowhere_in_what_is_written_or_said(tmp_path, bucket, monkeypatch):
    write(tmp_path, {0: "one picture of many"})
    curate(tmp_path, out=bucket)
    store = Store(bucket)
    system, root = store.files
    assert all(KEY.encode() not in system.cat_file(name) for name in system.find(root))
    with pytest.raises(UserError) as caught:
        curate(tmp_path, out="s3://no-such-bucket-anywhere/catalogue")
    assert KEY not in str(caught.value)


def test_the_commands_go_from_one_bucket_to_another_place_in_it(tmp_path, bucket):
    system, pile = s3fs.S3FileSystem(), bucket.replace("catalogue", "pile")
    for number, name in enumerate(("one.png", "two.png")):
        cells = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(cells).resize((420, 420), Image.Resampling.NEAREST).save(tmp_path / name)
        system.put_file(str(tmp_path / name), f"{pile}/{name}")
    system.pipe_file(f"{pile}/one.json", b'{"tag_string_general": "1girl long_hair", "rating": "g"}')
    said = sote("run", pile, "--out", bucket, "--preset", "miniature", "--skip", "score", "-s", "filter.min_area=0",
                "--workers", 1)
    assert "2 of 2 pictures kept" in said and "the tagger runs on " in said
    assert "nobody is writing to it" in sote("status", bucket) and "v1 " in sote("versions", bucket)
    sote("report", bucket, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "tagged on" in page and page.count("data:image/") >= 2
    assert "kept" in sote("explain", bucket, "one.png")
    assert sorted(read_reference([bucket]).paths) == [f"{bucket}/one.png", f"{bucket}/two.png"]


def sote(*arguments):
    done = CliRunner().invoke(group, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output
