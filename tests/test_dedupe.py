"""The step dedupe on drawn pictures: what is one picture, which is kept, and what people and reference sets have to say."""

import json

import imagecodecs
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from sotediffusion.cli.main import main
from sotediffusion.curate.dedupe.heirs import taken_over
from sotediffusion.curate.dedupe.phash import BLANK
from sotediffusion.curate.dedupe.reference import read_reference, scanned
from sotediffusion.curate.dedupe.step import READS, WRITES, DedupeSettings, DedupeStep
from sotediffusion.curate.dedupe.structure import compare, square
from sotediffusion.curate.dedupe.verdicts import Verdicts, pair, read, to_json
from sotediffusion.curate.scan.sources import open_source
from sotediffusion.types import UserError


def scene(seed, width=900, height=1100):
    """Shapes before a sky: flat areas and edges, as drawn art has them."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(rng.integers(120, 255, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, size = rng.integers(0, width), rng.integers(0, height), rng.integers(30, 260)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        box = (int(x - size), int(y - size), int(x + size), int(y + size * rng.uniform(0.2, 1)))
        shape(box, tuple(rng.integers(0, 255, 3).tolist()))
    return image


def changed_part(image):
    """The same picture with another dress: a variant."""
    other = image.copy()
    ImageDraw.Draw(other).rectangle((400, 440, 540, 600), (250, 20, 30))
    ImageDraw.Draw(other).ellipse((430, 470, 510, 570), (10, 240, 90))
    return other


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("scrape")
    for number in range(6):
        scene(number).save(place / f"{number}.png")
    first = scene(0)
    first.resize((630, 770), Image.Resampling.LANCZOS).save(place / "0_small.jpg", quality=85)
    first.save(place / "0_again.jpg", quality=60)
    scene(1).crop((35, 20, 870, 1075)).save(place / "1_cropped.jpg", quality=92)
    marked = scene(2)
    ImageDraw.Draw(marked).rectangle((620, 1030, 890, 1085), (255, 255, 255), (0, 0, 0), 6)
    marked.save(place / "2_marked.jpg", quality=92)
    changed_part(scene(3)).save(place / "3_variant.png")
    for name, level in (("white", 255), ("black", 0)):
        Image.new("RGB", (900, 1000), (level,) * 3).save(place / f"{name}.png")
    (place / "white_again.png").write_bytes((place / "white.png").read_bytes())
    (place / "broken.png").write_bytes((place / "5.png").read_bytes()[:5000])
    return place


@pytest.fixture(scope="module")
def table(folder):
    return scanned(open_source(str(folder)))


def answers(table, folder, **given):
    settings = DedupeSettings(**given.pop("settings", {}))
    source = given.pop("source", open_source(str(folder)))
    step = DedupeStep(settings, source, **given)
    out = step.process(table.select(READS).combine_chunks().to_batches()[0])
    assert out.schema == WRITES
    return dict(zip(table.column("path").to_pylist(), out.to_pylist(), strict=True))


def row_of(table, path):
    return table.column("path").to_pylist().index(path)


def sha_of(table, path):
    return table.column("sha256")[row_of(table, path)].as_py()


def test_copies_crops_and_marked_pictures_go_and_the_best_stays(folder, table):
    found = answers(table, folder)
    reasons = {path: answer["drop_dedupe"] for path, answer in found.items() if answer["drop_dedupe"]}
    assert reasons.pop("white_again.png") == "duplicate: of white.png"
    assert reasons.pop("2_marked.jpg") in ("watermark: of 2.png", "duplicate: of 2.png")
    copies = dict.fromkeys(("0_small.jpg", "0_again.jpg"), "duplicate: of 0.png")
    assert reasons == {**copies, "1_cropped.jpg": "crop: of 1.png"}
    assert found["0_small.jpg"]["group"] == found["0.png"]["group"] == row_of(table, "0.png")
    assert found["4.png"] == dict.fromkeys(WRITES.names)


def test_a_closer_look_tells_how_many_pictures_it_has_opened(folder, table):
    told = []
    step = DedupeStep(DedupeSettings(), open_source(str(folder)))
    step.reached = lambda done, total: told.append((done, total))
    step.process(table.select(READS).combine_chunks().to_batches()[0])
    assert told and told == [(number + 1, len(told)) for number in range(len(told))]


def test_what_has_no_hash_takes_no_part(folder, table):
    assert answers(table, folder)["broken.png"] == dict.fromkeys(WRITES.names)
    hidden = table.set_column(table.column_names.index("phash"), "phash", pa.nulls(len(table), pa.binary(32)))
    assert all(answer == dict.fromkeys(WRITES.names) for answer in answers(hidden, folder).values())


def test_blank_pictures_are_the_same_only_if_their_files_are(folder, table):
    found = answers(table, folder)
    assert found["black.png"]["drop_dedupe"] is None
    assert table.column("phash")[row_of(table, "black.png")].as_py() == BLANK


def test_variants_are_kept_linked_or_folded_as_the_policy_says(folder, table):
    kept, linked, folded = (answers(table, folder, settings={"variants": v, "radius": 0}) for v in ("keep", "link", "keep one"))
    names = {"3.png", "3_variant.png"}
    assert all(kept[name]["drop_dedupe"] is None and kept[name]["candidate"] is None for name in names)
    assert {linked[name]["candidate"] for name in names} & {row_of(table, name) for name in names}
    assert sorted((folded[name]["drop_dedupe"] or "kept").partition(":")[0] for name in names) == ["kept", "variant"]


def test_the_order_of_keeping_is_pixels_then_lossless_then_bytes_then_source_then_row():
    def rows(*items):
        columns = {"row": range(len(items)), "sha256": [f"{i:064x}" for i in range(len(items))],
                   "phash": [b"\1" * 32] * len(items), "blank": [False] * len(items),
                   "luma_mean": [1.0] * len(items), "luma_std": [9.0] * len(items),
                   "chroma": [2.0] * len(items)}  # fmt: skip
        for place, name in enumerate(("path", "bytes", "format", "width", "height")):
            columns[name] = [item[place] for item in items]
        types = {"phash": pa.binary(32), "luma_mean": pa.float32(), "luma_std": pa.float32(), "chroma": pa.float32()}
        return pa.record_batch([pa.array(columns[name], types.get(name)) for name in READS], names=list(READS))

    def kept(*items, **settings):
        out = DedupeStep(DedupeSettings(**settings)).process(rows(*items)).to_pylist()
        return [item[0] for item, answer in zip(items, out, strict=True) if answer["drop_dedupe"] is None]

    large, small = ("large", 10, "jpeg", 200, 200), ("small", 99, "png", 100, 100)
    assert kept(small, large) == ["large"]
    assert kept(("jpeg", 90, "jpeg", 9, 9), ("png", 10, "png", 9, 9)) == ["png"]
    assert kept(("few", 10, "jpeg", 9, 9), ("many", 90, "jpeg", 9, 9)) == ["many"]
    pixiv, board = ("pixiv/a", 10, "jpeg", 9, 9), ("board/a", 10, "jpeg", 9, 9)
    assert kept(board, pixiv, sources=("pixiv/", "board/")) == ["pixiv/a"]
    assert kept(board, pixiv) == ["board/a"]


def test_pictures_of_a_later_run_are_compared_with_those_before(folder, table, tmp_path):
    """Rows are answered for all together, so it does not matter when each came."""
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    assert answers(shuffled, folder) == answers(table, folder)


def test_what_a_reference_set_has_is_left_out_and_the_set_itself_is_not_touched(folder, table, tmp_path):
    scene(4).resize((700, 850)).save(tmp_path / "held_out.png")
    reference = read_reference([str(tmp_path)])
    found = answers(table, folder, reference=reference)
    assert found["4.png"]["drop_dedupe"] == f"in the reference set: {tmp_path}/held_out.png"
    assert found["4.png"]["group"] is None and found["0_small.jpg"]["drop_dedupe"] == "duplicate: of 0.png"
    assert reference.digest != read_reference([str(folder)]).digest


def test_verdicts_part_join_and_choose(folder, table):
    zero, small, again, four, five = (sha_of(table, name) for name in ("0.png", "0_small.jpg", "0_again.jpg", "4.png", "5.png"))
    said = Verdicts(frozenset([pair(four, five)]), frozenset([pair(zero, small), pair(small, again)]), frozenset([again]))
    found = answers(table, folder, verdicts=said)
    assert found["0_small.jpg"]["drop_dedupe"] is None
    assert found["0.png"]["drop_dedupe"] == "duplicate: of 0_again.jpg"
    assert [found[name]["drop_dedupe"] is None for name in ("4.png", "5.png")].count(False) == 1


def test_verdicts_move_the_fingerprint_and_survive_their_file(tmp_path):
    said = Verdicts(frozenset([pair("b" * 64, "a" * 64)]), frozenset(), frozenset(["a" * 64]))
    (tmp_path / "verdicts.json").write_text(to_json(said))
    assert read(tmp_path / "verdicts.json") == said
    assert DedupeStep(verdicts=said).identity() != DedupeStep().identity()
    assert read(tmp_path / "none.json") == Verdicts()


def test_later_verdicts_win():
    one, other = pair("a" * 64, "b" * 64), "b" * 64
    changed = Verdicts(same=frozenset([one]), keep=frozenset([other])).then(Verdicts(different=frozenset([one])))
    assert changed.same == frozenset() and changed.different == frozenset([one])


@pytest.mark.parametrize("text", ["[]", "{", '{"format": "sotediffusion verdicts 1", "same": [["a", "b"]]}', "\xff",
                                  '{"format": "sotediffusion verdicts 1", "keep": "x"}'])  # fmt: skip
def test_files_that_are_no_verdicts_are_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "v.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"v\.json is"):
        read(tmp_path / "v.json")


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match="dedupe.radius: 41"):
        DedupeStep(DedupeSettings(radius=41))


def as_square(image):
    return square(np.asarray(image))


@pytest.mark.parametrize("seed", range(8))
def test_a_closer_look_knows_copies_crops_and_other_pictures(seed):
    whole = scene(seed)
    rng = np.random.default_rng(seed)
    left, top, right, bottom = rng.uniform(0.01, 0.06, 4)
    crop = whole.crop((round(left * 900), round(top * 1100), round((1 - right) * 900), round((1 - bottom) * 1100)))
    assert compare(as_square(whole), as_square(whole.filter(ImageFilter.GaussianBlur(1.5)))).kind == "copy"
    assert compare(as_square(whole), as_square(crop)).kind == "crop" == compare(as_square(crop), as_square(whole)).kind
    assert compare(as_square(whole), as_square(scene(seed + 100))).kind == "other"
    assert compare(as_square(whole), as_square(changed_part(whole))).kind == "variant"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["curate", "dedupe", *map(str, arguments)])
    return stopped.value.code, *capsys.readouterr()


def test_the_command_lists_groups_and_changes_nothing(folder, capsys):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, out, err = run(capsys, folder, "--json")
    groups = {group["keep"]["path"]: [item["path"] for item in group["left_out"]] for group in json.loads(out)}
    assert code == 0 and sorted(groups["0.png"]) == ["0_again.jpg", "0_small.jpg"]
    assert "1 files are no pictures" in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_command_speaks_czkawka(folder, capsys):
    code, out, _ = run(capsys, folder, "--compat", "czkawka", "--filter", "triangle", "--similarity", "medium", "--json")
    groups = json.loads(out)
    assert code == 0 and ["0.png", "0_again.jpg", "0_small.jpg"] in [[item["path"] for item in group] for group in groups]
    assert set(groups[0][0]) == {"path", "size", "width", "height", "modified_date", "hashes", "difference"}
    assert run(capsys, folder, "--compat", "czkawka", "--similarity", "hihg")[0] == 2


def test_czkawkas_manner_passes_over_what_it_cannot_open_and_names_it(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        scene(1, 300, 300).save(tmp_path / name)
    (tmp_path / "c.jxl").write_bytes(imagecodecs.jpegxl_encode(np.asarray(scene(2, 300, 300)), lossless=True))
    code, out, err = run(capsys, tmp_path, "--compat", "czkawka", "--json")
    assert code == 0 and [item["path"] for item in json.loads(out)[0]] == ["a.png", "b.png"]
    assert "c.jxl: passed over" in err


@pytest.mark.parametrize("given", [
    ("--compat", "czkawka", "--radius", "3"), ("--compat", "czkawka", "--reference", "x"),
    ("--compat", "czkawka", "--verdicts", "x"), ("--compat", "czkawka", "--candidates", "3"),
    ("--compat", "czkawka", "--variants", "keep"), ("--similarity", "medium"),
])  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(folder, capsys, given):
    code, _, err = run(capsys, folder, *given)
    assert code == 2 and "does nothing" in err and given[-2] in err


TAGS = st.none() | st.lists(st.sampled_from(["a", "b", "c", None]), max_size=3)
DATES = st.sampled_from([None, "", "2016-05-01", "2012", "0001-01-01", "soon"])
COPIES = st.lists(st.tuples(st.sampled_from([0, 2, 3]), DATES, TAGS, TAGS, TAGS, TAGS), max_size=8)


@given(COPIES)
def test_what_copies_leave_behind_is_their_earliest_date_and_each_of_their_tags_once(copies):
    kinds = [pa.string()] + [pa.list_(pa.string())] * 4
    noted = [pa.array([copy[place] for copy in copies], kind) for place, kind in enumerate(kinds, 1)]
    dates, tags = (column.to_pylist() for column in taken_over(np.array([copy[0] for copy in copies], np.int64), noted, 4))
    for keeper in range(4):
        own = [copy for copy in copies if copy[0] == keeper]
        assert dates[keeper] == min((date for _, date, *_ in own if date in ("2016-05-01", "2012")), default=None)
        said = [tag for copy in own for column in copy[2:] for tag in column or () if tag]
        assert sorted(tags[keeper] or []) == sorted(set(said)) and (tags[keeper] is None) == (not said)


def test_copies_may_have_more_tags_together_than_an_array_holds():
    """The same half of a GiB four times, zeros that no memory stands behind."""
    length, many = 2**20, 2**9
    bounds = pa.py_buffer(np.arange(0, length * many + 1, length, dtype=np.int32))
    tags = pa.StringArray.from_buffers(many, bounds, pa.py_buffer(np.zeros(length * many, np.uint8)))
    column = pa.ListArray.from_arrays(pa.array([0, many], pa.int32()), tags)
    found = taken_over(np.array([0]), [pa.nulls(1, pa.string()), *[column] * 4], 1)[1]
    assert found.to_pylist() == [["\0" * length]]
