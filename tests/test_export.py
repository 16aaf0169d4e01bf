"""A catalogue for other trainers: they read what was curated, nothing refused leaves the house, and all of it comes back."""

import hashlib
import io
import json
import os
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from sotediffusion.cli.curate_import import command as import_command
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.exports.entries import Done, ExportSettings
from sotediffusion.curate.exports.kohya import clone
from sotediffusion.curate.exports.packed import write_parquet, write_tar
from sotediffusion.curate.exports.places import Place
from sotediffusion.curate.exports.reading import import_dataset
from sotediffusion.curate.exports.run import export_rows
from sotediffusion.curate.scan.sources import open_source
from sotediffusion.curate.scan.step import ScanSettings, ScanStep
from sotediffusion.pictures.pixels import decode
from sotediffusion.types import UserError

CAPTIONS = {
    "a.png": (["very aesthetic"], ["saber"], ["fate"], ["1girl", "solo"], 6), "b.jpg": (["displeasing"], [], [],
                                                                                        ["no humans"], 1),
    "deep/c.webp": ([], [], [], ["1girl", 'The text says "a. <b>"'], 1), "turned.jpg": ([], [], [], ["upside"], 1),
    "clear.png": ([], [], [], ["ghost"], 1), "dropped.png": ([], [], [], ["x"], 1), "refused.png": ([], [], [], ["child",
                                                                                                                 "nude"], 1),
    "changed.png": ([], [], [], ["y"], 1), "gone.png": ([], [], [], ["z"], 1),
}  # fmt: skip
KEPT = ["a.png", "b.jpg", "clear.png", "deep/c.webp", "turned.jpg"]
CAPTION = pa.list_(pa.struct([("group", pa.string()), ("tags", pa.list_(pa.string()))]))


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)).resize(
        (60, 40), Image.Resampling.NEAREST
    )


@pytest.fixture
def pile(tmp_path):
    """A source folder, and the catalogue's rows about it."""
    root = tmp_path / "pile"
    (root / "deep").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed, name in enumerate(CAPTIONS):
        if name == "turned.jpg":
            data = encoded(picture(seed), "JPEG", exif=exif)
        elif name == "clear.png":
            data = encoded(picture(seed).convert("RGBA").point(lambda v: v // 2), "PNG")
        else:
            data = encoded(picture(seed), {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rpartition(".")[2]])
        (root / name).write_bytes(data)
    return root, rows_of(root)


def rows_of(root):
    source = open_source(str(root))
    listing = pa.Table.from_batches(source.listing()).combine_chunks().to_batches()[0]
    scanned = ScanStep(source).process(listing)
    rows = []
    for at, (path, found) in enumerate(zip(listing.column("path").to_pylist(), scanned.to_pylist(), strict=True)):
        aesthetic, character, series, rest, repeats = CAPTIONS[path]
        groups = {"aesthetic": aesthetic, "rating": ["general"], "character": character, "series": series, "rest": rest}
        rows.append({
            "row": at, "path": path, "dropped": path == "dropped.png", "repeats": repeats, "rating": "general",
            "source": "danbooru",
            "caption": [{"group": group, "tags": tags} for group, tags in groups.items() if tags], "score_hq": 0.5 + at / 100,
            **{name: found[name] for name in ("sha256", "format", "width", "height")},
        })  # fmt: skip
    schema = pa.schema([("row", pa.int64()), ("path", pa.string()), ("dropped", pa.bool_()), ("repeats", pa.int16()),
                        ("rating", pa.string()),
                        ("source", pa.string()), ("caption", CAPTION), ("score_hq", pa.float32()), ("sha256", pa.string()),
                        ("format", pa.string()), ("width", pa.int32()), ("height", pa.int32())])  # fmt: skip
    (root / "changed.png").write_bytes(encoded(picture(99), "PNG"))
    (root / "gone.png").unlink()
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def exported(pile, out, form, **settings):
    root, rows = pile
    done = Done()
    export_rows([rows.slice(0, 4), rows.slice(4)], open_source(str(root)), out, form, ExportSettings(**settings), done)
    return done


def files(out):
    return {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}


def inside(out, form):
    """Of every exported picture, by the tags of its rest: pixels, caption line and record."""
    found = {}
    if form == "kohya":
        pairs = [
            (p.read_bytes(), p.with_suffix(".txt").read_text(), None)
            for p in out.rglob("*")
            if p.suffix in (".png", ".jpg", ".webp")
        ]
    elif form == "webdataset":
        pairs = []
        for tar in sorted(out.glob("*.tar")):
            with tarfile.open(tar) as archive:
                content = {member.name: archive.extractfile(member).read() for member in archive}
            assert list(content) == sorted(content, key=lambda name: (name.partition(".")[0], list(content).index(name)))
            for key in dict.fromkeys(name.partition(".")[0] for name in content):
                image = next(content[key + suffix] for suffix in (".png", ".jpg", ".webp") if key + suffix in content)
                pairs.append((image, content[key + ".txt"].decode(), json.loads(content[key + ".json"])))
    else:
        rows = [row for path in sorted(out.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
        pairs = [(row["image"]["bytes"], row["text"] + "\n", row) for row in rows]
    for data, line, record in pairs:
        found[line] = (decode(data), record)
    return found


@pytest.mark.parametrize("form", ["kohya", "parquet", "webdataset"])
def test_what_leaves_is_what_was_curated(pile, tmp_path, form):
    root, _ = pile
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    done = exported(pile, tmp_path / "out", form)
    assert (done.pictures, done.converted) == (5, 2)
    assert done.left_out == {"policy": 1, "changed since the scan": 1, "gone from the source": 1}
    found = inside(tmp_path / "out", form)
    assert set(found) == {
        "very aesthetic, general, saber, fate, 1girl, solo\n", "displeasing, general, no humans\n",
        'general, 1girl, The text says "a. <b>"\n', "general, upside\n", "general, ghost\n"}  # fmt: skip
    for name in KEPT:
        (pixels,) = [pixels for line, (pixels, _) in found.items() if CAPTIONS[name][3][-1] in line]
        assert np.array_equal(pixels, decode((root / name).read_bytes())), name
    assert "child" not in "".join(path.read_bytes().decode("latin-1") for path in files(tmp_path / "out").values())
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()} == before


def test_turned_and_transparent_pictures_need_no_exif_and_no_alpha(pile, tmp_path):
    exported(pile, tmp_path / "out", "kohya")
    for path in (tmp_path / "out").rglob("*.png"):
        with Image.open(path) as image:
            assert image.mode == "RGB" and not image.getexif()
    assert sorted(path.suffix for path in (tmp_path / "out").rglob("*-*") if path.suffix != ".txt") == [
        ".jpg",
        ".png",
        ".png",
        ".png",
        ".webp",
    ]


def test_kohyas_files(pile, tmp_path):
    exported(pile, tmp_path / "o", "kohya", name="my set")
    out = tmp_path / "o"
    assert {path.name for path in (out / "img").iterdir()} == {"6_my set", "1_my set"}
    metadata = json.loads((out / "metadata.json").read_text())
    for key, value in metadata.items():  # kohya looks for image_dir/key.* of a fine-tuning set
        assert len([p for p in out.glob(f"{key}.*") if p.suffix != ".txt"]) == 1
        assert value["tags"] + "\n" == (out / f"{key}.txt").read_text()
    toml = tomllib.loads((out / "dataset.toml").read_text())
    (dataset,) = toml["datasets"]
    assert {(Path(s["image_dir"]).name, s["num_repeats"]) for s in dataset["subsets"]} == {("6_my set", 6), ("1_my set", 1)}
    assert toml["general"]["shuffle_caption"] is True and dataset["resolution"] == 1024


def test_parquet_says_what_datasets_needs(pile, tmp_path):
    out = tmp_path / "out"
    exported(pile, out, "parquet", per_file=2)
    assert sorted(n for n in files(out) if n.endswith(".parquet")) == [f"data/train-0000{number}.parquet" for number in range(4)]
    schema = pq.read_schema(out / "data" / "train-00000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(schema.names)
    (record,) = [record for line, (_, record) in inside(out, "parquet").items() if "saber" in line]
    assert (record["tags"], record["tags_character"], record["repeats"]) == (["very aesthetic", "1girl", "solo"], ["saber"], 6)
    assert record["score_hq"] == pytest.approx(0.5)


@pytest.mark.parametrize("form", ["kohya", "parquet", "webdataset"])
def test_a_second_export_writes_nothing_and_a_changed_one_only_the_change(pile, tmp_path, form):
    root, rows = pile
    good = rows.filter(pa.array([path in KEPT for path in rows.column("path").to_pylist()]))
    out = tmp_path / "out"
    exported((root, good), out, form, per_file=2)
    times = {name: path.stat().st_mtime_ns for name, path in files(out).items() if path.suffix not in (".json", ".toml")}
    done = exported((root, good), out, form, per_file=2)
    assert done.pictures == 5
    assert {name: path.stat().st_mtime_ns for name, path in files(out).items() if name in times} == times
    exported((root, good.slice(0, 3)), out, form, per_file=2)
    assert len(inside(out, form)) == 3
    kept = {name for name, path in files(out).items() if times.get(name) == path.stat().st_mtime_ns}
    assert len(kept) >= (6 if form == "kohya" else 1)


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_a_file_that_no_note_was_taken_of_is_made_again(pile, tmp_path, form, monkeypatch):
    """An export killed where a file has just been replaced, and then one of the earlier pictures."""
    root, rows = pile
    good = rows.filter(pa.array([path in KEPT for path in rows.column("path").to_pylist()]))
    exported((root, good), tmp_path / "out", form)
    before, put = inside(tmp_path / "out", form).keys(), Place.put

    def killed(place, name, fingerprint):
        if fingerprint:
            raise KeyboardInterrupt
        put(place, name, fingerprint)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Place, "put", killed)
        exported((root, good.slice(0, 3)), tmp_path / "out", form)
    assert len(inside(tmp_path / "out", form)) == 3
    exported((root, good), tmp_path / "out", form)
    assert inside(tmp_path / "out", form).keys() == before


@pytest.mark.parametrize("write", [write_parquet, write_tar])
def test_a_file_of_an_export_is_on_the_disk_when_it_is_written(tmp_path, monkeypatch, write):
    synced, fsync = {}, os.fsync

    def watched(handle):
        fsync(handle)
        synced[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path / "part", [])
    assert synced == {(tmp_path / "part").stat().st_ino: (tmp_path / "part").stat().st_size}


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_an_object_store_gets_the_same_files_and_a_second_export_changes_none(pile, tmp_path, form):
    root, rows = pile
    good = (root, rows.filter(pa.array([path in KEPT for path in rows.column("path").to_pylist()])))
    place = Store(f"memory://{tmp_path.name}-{form}")
    system, top = place.files
    for out in (tmp_path / "out", place.place):
        exported(good, out, form, per_file=2)
    there = {name.removeprefix(top + "/"): system.cat_file(name) for name in system.find(top)}
    assert there == {name: path.read_bytes() for name, path in files(tmp_path / "out").items()}
    made = {name: system.modified(name) for name in system.find(top) if not name.endswith("export.json")}
    assert exported(good, place.place, form, per_file=2).pictures == 5
    assert {name: system.modified(name) for name in made} == made
    exported((root, good[1].slice(0, 2)), place.place, form, per_file=2)
    assert len(system.find(top)) == 2
    with pytest.raises(UserError, match="^out: .*holds an export as"):
        exported(good, place.place, {"parquet": "webdataset", "webdataset": "parquet"}[form])


def test_kohyas_folders_are_folders_and_keys_are_not_said_back(pile):
    with pytest.raises(UserError, match="^out: .*webdataset"):
        exported(pile, "memory://somewhere", "kohya")
    with pytest.raises(UserError, match="has a key in it") as caught:
        exported(pile, "s3://user:hidden@bucket/folder", "webdataset")
    assert "hidden" not in str(caught.value)


def test_the_same_pictures_give_the_same_tar(pile, tmp_path):
    for name in ("one", "two"):
        exported(pile, tmp_path / name, "webdataset")
    assert (tmp_path / "one/card-00000.tar").read_bytes() == (tmp_path / "two/card-00000.tar").read_bytes()


def test_folders_that_are_not_ours_are_left_alone(pile, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="^out: .*not empty"):
        exported(pile, tmp_path / "mine", "kohya")
    exported(pile, tmp_path / "out", "kohya")
    with pytest.raises(UserError, match="^out: .*holds an export as kohya"):
        exported(pile, tmp_path / "out", "parquet")
    (tmp_path / "out" / "img" / "1_card" / "mine.txt").write_text("stays")
    exported((pile[0], pile[1].slice(0, 1)), tmp_path / "out", "kohya")
    assert (tmp_path / "out" / "img" / "1_card" / "mine.txt").read_text() == "stays"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x"])
def test_a_name_cannot_leave_its_folder(pile, tmp_path, name):
    with pytest.raises(UserError, match="^name"):
        exported(pile, tmp_path / "out", "kohya", name=name)


def test_a_clone_is_whole_or_not_there(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10000)
    made = clone(str(tmp_path / "a"), tmp_path / "deep" / "b")
    assert made == (tmp_path / "deep" / "b").exists()
    assert not made or (tmp_path / "deep" / "b").read_bytes() == b"x" * 10000
    assert list(files(tmp_path / "deep")) == (["b"] if made else [])


def scanned_again(imported):
    source = open_source(imported.source)
    step = ScanStep(source, ScanSettings(sidecar_table=imported.table))
    step.setup()
    listing = pa.Table.from_batches(source.listing()).combine_chunks().to_batches()[0]
    return step.process(listing).to_pylist()


@pytest.mark.parametrize("form", ["kohya", "parquet", "webdataset"])
def test_all_of_it_comes_back_as_sidecar_tags(pile, tmp_path, form):
    exported(pile, tmp_path / "out", form, per_file=3)
    imported = import_dataset(str(tmp_path / "out"), tmp_path / "in")
    assert imported.pictures == 5
    rows = scanned_again(imported)
    assert all(row["drop_scan"] is None for row in rows)
    tags = [set(row["side_tags"] or []) | set(row["side_character"] or []) | set(row["side_series"] or []) for row in rows]
    for name in KEPT:
        aesthetic, character, series, rest, _ = CAPTIONS[name]
        assert any({*aesthetic, *character, *series, *rest} <= found for found in tags), name
    if form != "kohya":
        assert {row["side_rating"] for row in rows} == {"g"}


def test_kohyas_metadata_by_path_by_stem_and_by_key(tmp_path):
    root = tmp_path / "set"
    (root / "2_x").mkdir(parents=True)
    for seed, name in enumerate(("2_x/a.png", "2_x/b.png", "2_x/c.png", "d.png")):
        (root / name).write_bytes(encoded(picture(seed), "PNG"))
    (root / "2_x/a.txt").write_text("from the file")
    (root / "meta.json").write_text(json.dumps({
        str(root / "2_x/a.png"): {"tags": "1girl, long hair"},
        "b": {"caption": "a tall tree stands alone on the green hill at dawn"},
        "2_x/c": {"caption": "1boy", "tags": "solo"}, "nowhere": {"tags": "x"},
        "d.png": {"tags": "rating:explicit, series:fate"},
    }))  # fmt: skip
    imported = import_dataset(str(root), tmp_path / "in")
    assert (imported.pictures, imported.left_out) == (4, 1)
    a, b, c, d = scanned_again(imported)
    assert a["side_tags"] == ["from the file", "1girl", "long hair"]
    assert (b["side_tags"], b["side_text"]) == (None, "a tall tree stands alone on the green hill at dawn")
    assert c["side_tags"] == ["1boy", "solo"]
    assert d["side_series"] == ["fate"]


def test_what_kohyas_metadata_says_of_a_refused_picture_is_not_written_and_the_scan_refuses_it(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for seed, name in enumerate(("plain.png", "secret name.png", "beside.png")):
        (root / name).write_bytes(encoded(picture(seed), "PNG"))
    (root / "beside.txt").write_text("nude")
    (root / "meta.json").write_text(json.dumps({
        "plain": {"tags": "1girl"}, "secret name": {"tags": "loli, nude"}, "beside": {"tags": "child, hat"},
    }))  # fmt: skip
    imported = import_dataset(str(root), tmp_path / "in")
    assert (imported.pictures, imported.refused) == (1, 2)
    table = (tmp_path / "in" / "sidecars.jsonl").read_text()
    assert "plain.png" in table and "secret" not in table and "loli" not in table and "child" not in table
    found = {row["sha256"]: row for row in scanned_again(imported)}
    secret = found[hashlib.sha256((root / "secret name.png").read_bytes()).hexdigest()]
    assert secret["drop_scan"] == "policy" and secret["side_tags"] is None
    assert sum(row["drop_scan"] == "policy" for row in found.values()) == 2


def test_parquet_of_others(tmp_path):
    images = [encoded(picture(0), "PNG"), b"junk", None, encoded(picture(1), "PNG")]
    captions = ["a cat, sitting", "x", "y", "1girl, loli"]
    table = pa.table({"image": pa.array(images, pa.binary()), "caption": captions, "aesthetic": [5.5, 1.0, 2.0, 3.0]})
    pq.write_table(table, tmp_path / "d.parquet")
    imported = import_dataset(str(tmp_path / "d.parquet"), tmp_path / "in")
    assert (imported.pictures, imported.left_out, imported.refused) == (1, 2, 1)
    assert len(files(tmp_path / "in")) == 2
    (row,) = scanned_again(imported)
    assert row["side_tags"] == ["a cat", "sitting"] and json.loads(row["side_extra"])["aesthetic"] == 5.5


def test_what_is_no_data_set_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="^dataset: "):
        import_dataset(str(tmp_path), tmp_path / "in")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "d.parquet")
    with pytest.raises(UserError, match="no column of pictures"):
        import_dataset(str(tmp_path), tmp_path / "in")


def test_the_command_tells_how_to_go_on(pile, tmp_path):
    exported(pile, tmp_path / "out", "kohya")
    result = CliRunner().invoke(import_command, [str(tmp_path / "out"), "--out", str(tmp_path / "in")])
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == (
        f"sote curate run {tmp_path}/out --out CATALOGUE -s scan.sidecar_table={tmp_path}/in/sidecars.jsonl")  # fmt: skip
