"""A catalogue in an object store: the same engine against a local S3 server."""

import logging
import threading
import uuid

import pytest
from curate_run import calls, curate, steps_of, write

from sotediffusion.curate import catalogue
from sotediffusion.curate.engine.lock import only_writer
from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError

pytest.importorskip("s3fs", reason="s3fs is not installed")
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
    import s3fs

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
    assert threading.active_count() < 20


def test_keys_are_nowhere_in_what_is_written_or_said(tmp_path, bucket, monkeypatch):
    write(tmp_path, {0: "one picture of many"})
    curate(tmp_path, out=bucket)
    store = Store(bucket)
    system, root = store.files
    assert all(KEY.encode() not in system.cat_file(name) for name in system.find(root))
    with pytest.raises(UserError) as caught:
        curate(tmp_path, out="s3://no-such-bucket-anywhere/catalogue")
    assert KEY not in str(caught.value)
