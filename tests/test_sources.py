"""Where pictures lie: the same list every time, every byte of every kind of place, nothing changed."""

import io
import os
import pickle
import tarfile
from collections import Counter

import pytest

from sotediffusion.curate.engine.shelves import file_system
from sotediffusion.curate.scan.sources import MEMBER, open_source, passed_over, sidecar_names, whole
from sotediffusion.types import UserError


def listed(source):
    return [row for batch in source.listing() for row in batch.to_pylist()]


def paths(source):
    return [row["path"] for row in listed(source)]


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


FILES = {"b.png": b"1", "a/z.jpg": b"22", "a.b/c.webp": b"333", "a.txt": b"t", "a/z.txt": b"tags", "a/z.jpg.json": b"{}",
         "info.json": b"{}",
         "deep/er/still/x.AVIF": b"4", "clip.mp4": b"5", "u.zip": b"6", "notes.md": b"7", ".hidden/x.png": b"8", "a/.y.png": b"9",
         "0123456789abcdef": b"10"}  # fmt: skip
LISTED = ["0123456789abcdef", "a.b/c.webp", "a/z.jpg", "b.png", "clip.mp4", "deep/er/still/x.AVIF", "u.zip"]


def test_a_folder_is_listed_in_the_order_of_its_paths(tmp_path):
    fill(tmp_path, FILES)
    source = open_source(str(tmp_path))
    assert paths(source) == LISTED == sorted(LISTED)
    assert source.skipped == {".md": 1}
    assert [source.read(path) for path in LISTED] == [FILES[path] for path in LISTED]


def test_sidecars_are_found_by_stem_and_by_full_name_and_count_as_changes(tmp_path):
    fill(tmp_path, FILES)
    source = pickle.loads(pickle.dumps(open_source(str(tmp_path))))
    assert source.sidecars(["a/z.jpg", "b.png"]) == [[("z.txt", b"tags"), ("z.jpg.json", b"{}")], []]
    before = {row["path"]: row["modified"] for row in listed(source)}
    os.utime(tmp_path / "a/z.txt", ns=(2**62, 2**62))
    after = {row["path"]: row["modified"] for row in listed(source)}
    assert after["a/z.jpg"] == 2**62 and {p for p in after if after[p] != before[p]} == {"a/z.jpg"}


def test_files_that_are_no_pictures_by_their_names_are_counted(tmp_path):
    fill(tmp_path, {f"{n}.part": b"x" for n in range(3)} | {"a.jpg_large": b"x", "b.tar.gz": b"x", "c.png": b"x", "c.txt": b"x"})
    source = open_source(str(tmp_path))
    assert paths(source) == ["c.png"]
    assert passed_over(source.skipped) == "5, by name no pictures: 3 .part, 1 .gz, 1 .jpg_large"
    assert passed_over(source.skipped, most=1) == "5, by name no pictures: 3 .part, 2 others"
    assert passed_over(Counter()) == ""


def test_a_closed_folder_is_passed_over_and_a_closed_root_is_one_sentence(tmp_path, monkeypatch):
    fill(tmp_path, {"a.png": b"x", "b/b.png": b"x", "lost+found/c.png": b"x", "n.part": b"x"})
    scandir, closed = os.scandir, ["lost+found"]

    def guarded(path):
        if any(str(path).rstrip("/").endswith(name) for name in closed):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    source = open_source(str(tmp_path))
    assert paths(source) == ["a.png", "b/b.png"]
    assert passed_over(source.skipped) == "1, by name no pictures: 1 .part; folders that cannot be read: 1"
    closed.append(tmp_path.name)
    with pytest.raises(UserError, match="^source: it cannot be listed .Permission denied."):
        paths(open_source(str(tmp_path)))


def test_names_of_sidecars():
    assert sidecar_names("x/a.b.jpg") == ["x/a.b.tags", "x/a.b.jpg.tags", "x/a.b.caption", "x/a.b.jpg.caption", "x/a.b.txt",
                                          "x/a.b.jpg.txt",
                                          "x/a.b.json", "x/a.b.jpg.json"]  # fmt: skip
    assert sidecar_names("a.b/c")[0] == "a.b/c.tags"


def test_tars_are_looked_into_wherever_they_lie(tmp_path):
    members = {"k/0001.jpg": b"one", "k/0001.txt": b"1girl", "k/0001.json": b"{}", "./0000.png": b"zero", "deep/readme.md": b"x"}
    fill(tmp_path, {"set/a.tar": tar(members), "set/b.png": b"b"})
    for source in (open_source(str(tmp_path)), open_source(str(tmp_path / "set"))):
        found = paths(source)
        assert [path.rpartition("set/")[2] for path in found] == [f"a.tar{MEMBER}0000.png", f"a.tar{MEMBER}k/0001.jpg", "b.png"]
        assert source.read_all(found) == [b"zero", b"one", b"b"]
        assert source.sidecars(found)[1] == [("0001.txt", b"1girl"), ("0001.json", b"{}")]
    alone = open_source(str(tmp_path / "set" / "a.tar"))
    assert paths(alone) == [f"a.tar{MEMBER}0000.png", f"a.tar{MEMBER}k/0001.jpg"]
    assert [row["bytes"] for row in listed(alone)] == [4, 3]


@pytest.mark.parametrize("left", [0, 300, 700, 1100])
def test_of_a_tar_cut_short_the_whole_members_are_listed(tmp_path, left):
    fill(tmp_path, {"a.tar": tar({"a.png": b"x" * 100, "b.png": b"y" * 600})[:left]})
    source = open_source(str(tmp_path))
    for path in paths(source):
        assert source.read(path) == b"x" * 100


def test_names_that_are_no_utf8_and_names_with_anything_in_them(tmp_path):
    raw = os.fsencode(str(tmp_path)) + b"/caf\xe9 \n \\x41.png"
    with open(raw, "wb") as file:
        file.write(b"odd")
    source = open_source(str(tmp_path))
    (path,) = paths(source)
    assert source.read(path) == b"odd"


def test_links_to_nowhere_and_round_in_circles(tmp_path):
    fill(tmp_path, {"in/a.png": b"a"})
    (tmp_path / "in" / "round").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "linked").symlink_to(tmp_path / "in" / "a.png")
    source = open_source(str(tmp_path))
    assert paths(source) == ["gone.png", "in/a.png", "linked"]
    assert isinstance(source.read_all(["gone.png"])[0], FileNotFoundError)


def test_an_object_store_gives_what_the_folder_gives(tmp_path):
    import fsspec

    members = {"k/0001.jpg": b"one", "k/0001.txt": b"1girl"}
    files = {**FILES, "set/a.tar": tar(members)}
    fill(tmp_path, files)
    system = fsspec.filesystem("memory")
    for name, content in files.items():
        system.pipe_file(f"/pile/{name}", content)
    local, far = open_source(str(tmp_path)), open_source("memory://pile")
    assert paths(far) == paths(local)
    assert far.read_all(paths(far)) == local.read_all(paths(local))
    assert far.sidecars(paths(far)) == local.sidecars(paths(local))
    assert isinstance(far.read_all(["none.png", "b.png"])[0], FileNotFoundError)


@pytest.fixture
def s3(monkeypatch):
    """An S3 server of our own, its address and key in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield server
    file_system.cache_clear()
    server.stop()


def test_a_bucket_gives_what_the_folder_gives(tmp_path, s3):
    import boto3

    files = {**FILES, "set/a.tar": tar({"k/0001.jpg": b"one", "k/0001.txt": b"1girl"})}
    fill(tmp_path, files)
    client = boto3.client("s3")
    client.create_bucket(Bucket="pile")
    for name, content in files.items():
        client.put_object(Bucket="pile", Key=f"in/{name}", Body=content)
    local, far = open_source(str(tmp_path)), pickle.loads(pickle.dumps(open_source("s3://pile/in")))
    assert [(row["path"], row["bytes"]) for row in listed(far)] == [(row["path"], row["bytes"]) for row in listed(local)]
    assert all(row["modified"] > 10**18 for row in listed(far))
    assert far.read_all(paths(far)) == local.read_all(paths(local))
    assert far.sidecars(paths(far)) == local.sidecars(paths(local))
    assert isinstance(far.read_all(["none.png", "b.png"])[0], FileNotFoundError)
    with pytest.raises(UserError, match="^source: "):
        open_source("s3://pile/nothing")


@pytest.mark.parametrize("place", ["/nowhere/at/all", "memory://no/such", "nosuch://x/y", "s3://key:secret@bucket/x"])
def test_a_place_that_is_not_there_is_one_sentence(place):
    with pytest.raises(UserError, match="^source: ") as error:
        open_source(place)
    assert "secret" not in str(error.value)


def test_a_folder_that_vanishes_is_an_error_and_no_thousand_quarantines(tmp_path):
    fill(tmp_path / "pile", {"a.png": b"a"})
    source = open_source(str(tmp_path / "pile"))
    (tmp_path / "pile" / "a.png").unlink()
    (tmp_path / "pile").rmdir()
    with pytest.raises(UserError, match="^source: the folder .* is gone; .*run the same command again"):
        source.read_all(["a.png"])


def test_a_local_place_is_written_down_from_the_root_and_a_url_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole("pile") == whole(f"file://{tmp_path}/pile") == str(tmp_path / "pile")
    assert whole("s3://bucket/pile") == "s3://bucket/pile"
