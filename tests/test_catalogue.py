"""What is committed to a catalogue bit by bit is what one commit of it all would have been; answers that failed come again."""

import json

import numpy as np
import pyarrow as pa
import pytest
from chat_server import completion, serving
from curate_run import by_path, calls, curate, steps_of, write
from curate_steps import Logged, See
from PIL import Image

from sotediffusion.cli.curate import read_preset, summary
from sotediffusion.cli.curate_explain import _tag_names
from sotediffusion.curate import catalogue, pipeline
from sotediffusion.curate.again import forget_errors
from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError


class Ask(Logged):
    """Has no answer as long as there is a file `silence`, and then the number of times it was asked."""

    name, version = "text", 1
    reads = ("text",)
    writes = pa.schema([("said", pa.string()), ("said_error", pa.string())])
    errors = "said_error"

    def process(self, rows):
        texts = rows.column("text").to_pylist()
        self.note(texts)
        silent = [(self.log.parent / "silence").exists() and "picture 2" in text for text in texts]
        said = [None if nothing else "words" for nothing in silent]
        return pa.record_batch([pa.array(said, pa.string()), pa.array(["busy" if one else None for one in silent], pa.string())],
                               schema=self.writes)  # fmt: skip


class Repeat(Logged):
    """Says what it was told."""

    name, version = "rules", 1
    reads = ("said",)
    writes = pa.schema([("heard", pa.string())])

    def process(self, rows):
        return pa.record_batch([rows.column("said").cast(pa.string())], schema=self.writes)


def texts(count, **special):
    return {number: f"picture {number} of many" for number in range(count)} | {int(k[1:]): v for k, v in special.items()}


def compared(place, **given):
    """The catalogue as it has grown, and one made at once."""
    runner, _ = curate(place, **given)
    grown = by_path(place)
    curate(place, out=place / "anew", **given)
    return grown, by_path(place, out=place / "anew")


def test_a_catalogue_that_grew_is_as_one_made_at_once(tmp_path):
    special = {"_1": "short", "_2": "unreadable, all", "_3": "bad pixels, this", "_5": "forbidden thing"}
    write(tmp_path, texts(9, **special, _6="picture 0 of many"))
    curate(tmp_path)
    further = [See(tmp_path / "log", "see2", "b")]
    steps = steps_of(tmp_path, least=3, extra=further)
    grown, anew = compared(tmp_path, steps=steps)
    assert grown == anew and grown["003.png"]["reason"] == "unreadable: bad pixels"
    assert {row["reason"] for row in grown.values()} > {None, "unreadable: it says so", "same as: 0"}


def test_a_further_column_leaves_the_reasons_alone_unless_it_drops_something(tmp_path):
    write(tmp_path, texts(6, _1="short"))
    curate(tmp_path)
    _, version = curate(tmp_path, steps=steps_of(tmp_path, extra=[See(tmp_path / "log", "see2", "b")]))
    assert version.states["reason"] == catalogue.versions(Store(tmp_path / "cat"))[0].states["reason"]
    assert version.kept == 5 and version.reasons == {"too short": 1}
    _, version = curate(tmp_path, steps=steps_of(tmp_path, least=30))
    assert version.kept == 0 and version.reasons == {"too short": 6}
    assert {row["reason"] for row in by_path(tmp_path).values()} == {"too short: 5", "too short: 17"}


def test_a_catalogue_whose_commit_was_killed_before_its_last_tag_is_read_and_gone_on_with(tmp_path):
    write(tmp_path, texts(3))
    curate(tmp_path)
    catalogue.read(tmp_path / "cat").tags.delete(catalogue.LATEST)
    assert len(by_path(tmp_path)) == 3
    write(tmp_path, {3: "picture 3 of many", 4: "picture 4 of many"})
    _, version = curate(tmp_path)
    assert version.name == "v2" and len(by_path(tmp_path)) == 5 and len(by_path(tmp_path, "v1")) == 3


def test_a_name_that_was_asked_for_is_given_though_nothing_is_new_and_it_is_the_next_of_itself(tmp_path):
    write(tmp_path, texts(3))
    curate(tmp_path)
    assert curate(tmp_path)[1] is None
    _, version = curate(tmp_path, name="v2")
    assert version.name == "v2" and catalogue.find_version(Store(tmp_path / "cat")).name == "v2"


def test_the_latest_tag_is_moved_and_never_gone(tmp_path, monkeypatch):
    write(tmp_path, texts(3))
    curate(tmp_path)
    monkeypatch.delattr(type(catalogue.read(tmp_path / "cat").tags), "delete")
    write(tmp_path, {3: "picture 3 of many", 4: "picture 4 of many"})
    curate(tmp_path)
    assert len(by_path(tmp_path)) == 5


@pytest.mark.parametrize("failed", [{0}, {1, 2}, {0, 1, 2, 3}])
def test_pictures_without_an_answer_are_asked_again_and_what_read_it_reads_the_new_one(tmp_path, failed):
    write(tmp_path, {number: f"picture {2 if number in failed else 1} of {number}" for number in range(4)})
    (tmp_path / "silence").touch()
    asking = [*steps_of(tmp_path)[:1], Ask(tmp_path / "log"), Repeat(tmp_path / "log")]
    curate(tmp_path, steps=asking)
    calls(tmp_path)
    forget_errors(Store(tmp_path / "cat"), asking)
    _, version = curate(tmp_path, steps=asking)
    assert version is None and sum(calls(tmp_path).values()) == len(failed)
    (tmp_path / "silence").unlink()
    forget_errors(Store(tmp_path / "cat"), asking)
    _, version = curate(tmp_path, steps=asking)
    assert version is not None and sum(calls(tmp_path).values()) == len(failed)
    assert {(row["said"], row["said_error"], row["heard"]) for row in by_path(tmp_path).values()} == {("words", None, "words")}
    forget_errors(Store(tmp_path / "cat"), asking)
    assert curate(tmp_path, steps=asking)[1] is None and not calls(tmp_path)


def drawn(place, name, seed, quality, **side):
    """A picture of blocks, and its sidecar."""
    blocks = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), np.uint8)
    picture = Image.fromarray(blocks).resize((900, 900), Image.Resampling.NEAREST)
    picture.save(place / name, quality=quality)
    if side:
        (place / f"{name}.json").write_text(json.dumps(side))


def run(place, url="", **settings):
    """The chain without models over place/src."""
    text = ['text.backend="none"']
    if url:
        text = [f"text.endpoint.url={json.dumps(url)}", 'text.backend="endpoint"', "text.where=[]"]
    given = read_preset("card", (*text, "text.endpoint.retries=0", *(f"{key}={value}" for key, value in settings.items())))
    order = pipeline.Order(str(place / "src"), str(place / "cat"), given, place, 1, skip=("score", "tag"))
    version, runner, _ = pipeline.run(order, lambda progress: None)
    return version, runner


def test_a_kept_copy_has_the_date_and_the_tags_of_the_one_it_was_saved_from(tmp_path):
    (tmp_path / "src").mkdir()
    drawn(tmp_path / "src", "original.jpg", 1, 70, created_at="2016-05-01", tag_string_general="1girl smile", rating="g")
    drawn(tmp_path / "src", "again.jpg", 1, 95)
    drawn(tmp_path / "src", "other.jpg", 2, 90, created_at="2020-05-01", tag_string_general="tree")
    version, _ = run(tmp_path)
    rows = by_path(tmp_path)
    assert rows["original.jpg"]["reason"] == "duplicate: of again.jpg" and version.kept == 2
    assert rows["again.jpg"]["side_date"] is None and rows["again.jpg"]["group_date"].startswith("2016-05-01")
    assert rows["again.jpg"]["date"] == "mid" and rows["again.jpg"]["general"] == ["1girl", "smile"]
    assert rows["other.jpg"]["group_date"] is None and rows["other.jpg"]["date"] == "recent"


def test_a_run_asks_the_server_again_about_pictures_that_it_had_no_answer_for(tmp_path):
    (tmp_path / "src").mkdir()
    for number in range(3):
        drawn(tmp_path / "src", f"{number}.jpg", number, 90)
    def reply(request, times):
        return (400, {}, b"no") if len(chat.asked) == 2 and times == 1 else completion("hi")

    with serving(reply) as (url, chat):
        run(tmp_path, url, **{"text.endpoint.concurrency": 1})
        errors = [row["text_error"] for row in by_path(tmp_path).values()]
        assert sum(error is not None for error in errors) == 1
        version, _ = run(tmp_path, url, **{"text.endpoint.concurrency": 1})
    assert sum(chat.asked.values()) == 4 and version is not None
    assert {row["caption"][-1]["tags"][0] for row in by_path(tmp_path).values()} == {'The text says "hi"'}


KEYED = "s3://KEY:SEC/RET@bucket/x"


@pytest.mark.parametrize(("field", "setting"), [
    ("text.endpoint.url", 'text.endpoint.url="https://u:SEC@h/v1"'), ("prose.endpoint.url", 'prose.endpoint.url="http://h/?k=SEC"'),
    ("dedupe.reference", f'dedupe.reference=["{KEYED}"]'),
])  # fmt: skip
def test_an_address_with_a_key_in_it_is_refused_even_where_nobody_asks_it_as_settings_are_written_down(tmp_path, field, setting):
    given = read_preset("card", ('text.backend="none"', setting))
    skip = ("score", "tag", "dedupe", "text", "prose")
    with pytest.raises(UserError, match=f"^{field}: ") as said:
        pipeline.run(pipeline.Order(str(tmp_path), str(tmp_path / "cat"), given, tmp_path, 1, skip), lambda progress: None)
    assert "SEC" not in str(said.value) and not (tmp_path / "cat").exists()


@pytest.mark.parametrize("place", [KEYED, "s3://KEY:SEC@bucket/x"])
def test_a_catalogues_place_with_a_key_in_it_is_refused(tmp_path, place):
    order = pipeline.Order(str(tmp_path), place, read_preset("miniature", ()), tmp_path, 1)
    with pytest.raises(UserError, match=r"^out: s3://\*\*\*@bucket/x has a key in it") as said:
        pipeline.run(order, lambda progress: None)
    assert "SEC" not in str(said.value)
    assert Store("s3://bucket:8000/a@b").place == "s3://bucket:8000/a@b", "a port is no key"


def test_a_picture_that_is_refused_later_leaves_no_words_in_the_journal_and_no_former_row(tmp_path):
    (tmp_path / "src").mkdir()
    for number, name in enumerate(("one.jpg", "secret name.jpg")):
        drawn(tmp_path / "src", name, number, 90)
    with serving(lambda request, times: completion(f"words {len(chat.asked)}")) as (url, chat):
        run(tmp_path, url)
        assert set(everything_in(tmp_path / "cat" / "journal")) and b"secret name" in everything_in(tmp_path / "cat")
        for journal in (tmp_path / "cat" / "journal").rglob("*.jsonl"):
            journal.write_bytes(journal.read_bytes() + b'{"key": "torn", "text": "secret')
        said = {row["path"]: row["text"] for row in by_path(tmp_path).values()}
        (tmp_path / "src" / "secret name.jpg.json").write_text(json.dumps({"tags": "loli nude"}))
        version, _ = run(tmp_path, url)
    assert version.reasons == {"policy": 2} and version.kept == 1
    assert b"secret" not in everything_in(tmp_path / "cat")
    assert said["secret name.jpg"].encode() not in everything_in(tmp_path / "cat" / "journal")
    assert said["one.jpg"].encode() in everything_in(tmp_path / "cat" / "journal")
    assert run(tmp_path)[0] is not None  # without the server: other settings, and all is in order


def everything_in(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("place", ["", "memory://catalogue-with-lists"])
def test_a_story_names_the_tags_of_the_list_that_its_version_was_made_with(tmp_path, place):
    ratings = (f"{place},{name},9,0\n" for place, name in enumerate(("general", "sensitive", "questionable", "explicit")))
    store, head = Store(place or tmp_path), "tag_id,name,category,count\n" + "".join(ratings)
    for name in ("a", "b"):
        store.write(f"taglists/{name}.csv", f"{head}4,{name}_tag,0,0\n".encode())
    assert _tag_names(store, {"taglist": "b"})[4] == "b tag"
    assert _tag_names(store, {}) == {} == _tag_names(store, {"taglist": "c"})
    store.remove("taglists/b.csv")
    assert _tag_names(store, {})[4] == "a tag"


def test_the_last_words_of_a_run_are_of_what_was_left_out_and_of_nothing_else():
    reasons = {"scan": {}, "policy": {"policy": 2}, "filter": {"blank": 1, "too small": 3, "too long": 0}}
    assert summary(reasons) == [
        "policy: 2 refused; of these nothing is kept but a hash of their content",
        "filter: 3 left out, too small",
        "filter: 1 left out, blank",
    ]
    assert summary({"policy": {"policy": 0}}) == []
