"""What was noted beside a picture, in every dialect people have, as one form; nothing written there can stop a scan."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sotediffusion.curate.scan.posts import iso_date
from sotediffusion.curate.scan.side import SIDE
from sotediffusion.curate.scan.sidecars import read_sidecar, read_sidecars, read_table, read_tags
from sotediffusion.types import UserError


def read(value, name="a.json"):
    return read_sidecar(name, json.dumps(value).encode())


DANBOORU = {
    "id": 294929, "created_at": "2008-08-12T00:46:05.385-04:00", "rating": "s", "score": 4, "fav_count": 12, "md5": "ac8e3b92",
    "source": "https://i.pximg.net/img-original/img/2008/07/09/16/10/23/1129835_p0.jpg", "pixiv_id": 1129835,
    "tag_string": "2boys batman batman_(series) bonocho sketch photoshop_(medium)", "tag_string_general": "2boys sketch",
    "tag_string_character": "batman", "tag_string_copyright": "batman_(series)", "tag_string_artist": "bonocho",
    "tag_string_meta": "photoshop_(medium)",
}  # fmt: skip
GROUPS = {"general": ["2boys", "sketch"], "character": ["batman"], "series": ["batman_(series)"], "artist": ["bonocho"],
          "meta": ["photoshop_(medium)"]}  # fmt: skip


def test_danbooru():
    side = read(DANBOORU)
    assert side.groups == GROUPS
    assert side.tags == DANBOORU["tag_string"].split()
    assert (side.id, side.rating, side.score, side.date, side.site) == ("294929", "s", 4, "2008-08-12T04:46:05+00:00", "danbooru")
    assert side.extra["md5"] == "ac8e3b92" and side.extra["pixiv_id"] == 1129835


def test_danbooru_through_gallery_dl():
    lists = {f"tags_{kind}": value.split() for kind, value in
             ((key.removeprefix("tag_string_"), DANBOORU[key]) for key in DANBOORU if key.startswith("tag_string_"))}  # fmt: skip
    side = read({**DANBOORU, **lists, "tags": DANBOORU["tag_string"].split(), "category": "danbooru", "subcategory": "post",
                 "date": "2008-08-12 04:46:05"})  # fmt: skip
    assert side.groups == GROUPS
    assert side.site == "danbooru"


def test_gelbooru_as_its_api_answers():
    post = {"id": 313638, "created_at": "Sat Nov 13 01:37:09 -0500 2021", "score": 7, "rating": "explicit",
            "tags": "1girl long_hair",
            "file_url": "https://img3.gelbooru.com/images/5d/30/x.jpg", "title": ""}  # fmt: skip
    side = read({"@attributes": {"limit": 1}, "post": [post]})
    assert (side.tags, side.rating, side.date) == (["1girl", "long_hair"], "e", "2021-11-13T06:37:09+00:00")
    assert (side.site, side.text) == ("gelbooru", None)


def test_gelbooru_through_gallery_dl_with_tag_groups_as_text():
    side = read({"category": "gelbooru", "id": "6018318", "rating": "safe", "tags": "1girl vocaloid",
                 "tags_artist": "kirisaki_shuusei",
                 "tags_copyright": "vocaloid", "tags_metadata": "highres absurdres", "score": "12"})  # fmt: skip
    assert side.groups == {"artist": ["kirisaki_shuusei"], "series": ["vocaloid"], "meta": ["highres", "absurdres"]}
    assert (side.rating, side.score, side.id) == ("g", 12, "6018318")


def test_moebooru_where_s_means_safe():
    post = {"id": 51824, "tags": "armor ouzoku sword", "created_at": 1229000000, "author": "somebody", "rating": "s", "score": 3,
            "file_url": "https://files.yande.re/image/x.jpg", "tags_circle": "softhouse_chara",
            "tags_artist": "sasaki_tamaru"}  # fmt: skip
    side = read(post)
    assert (side.rating, side.site, side.date) == ("g", "yandere", "2008-12-11T12:53:20+00:00")
    assert side.groups["artist"] == ["softhouse_chara", "sasaki_tamaru"]


def test_pixiv_through_gallery_dl():
    post = {"category": "pixiv", "id": 102932581, "title": "Bridge and Deer", "caption": "Meet a <b>deer</b> .", "rating": "R-18",
            "create_date": "2022-11-19T15:00:00+00:00", "date": "2022-11-19 15:00:00", "total_bookmarks": 1900, "x_restrict": 1,
            "tags": ["風景", {"name": "少女", "translated_name": "girl"}], "user": {"id": 7386235, "name": "岛的鲸",
                                                                                "account": "8054"},
            "illust_ai_type": 1}  # fmt: skip
    side = read(post)
    assert side.groups == {"artist": ["岛的鲸"]}
    assert (side.tags, side.rating, side.score, side.site) == (["風景", "girl"], "e", 1900, "pixiv")
    assert side.text == "Bridge and Deer\nMeet a deer ."
    assert side.extra["illust_ai_type"] == 1 and side.extra["user"]["account"] == "8054"


def test_e621_and_the_social_sites():
    side = read({"post": {"id": 1, "tags": {"general": ["grass"], "species": ["fox"], "artist": ["x"], "copyright": ["y"]},
                          "rating": "q",
                          "score": {"up": 5, "down": -1, "total": 4}}})  # fmt: skip
    assert side.groups == {"general": ["grass", "fox"], "artist": ["x"], "series": ["y"]}
    assert (side.rating, side.score) == ("q", 4)
    side = read({"category": "twitter", "tweet_id": 9, "author": {"name": "handle", "nick": "Shown Name"}, "content": "hello",
                 "hashtags": ["fanart"], "date": "2020-01-02 03:04:05", "possibly_sensitive": True})  # fmt: skip
    assert (side.groups, side.tags, side.rating) == ({"artist": ["Shown Name"]}, ["fanart"], "q")


def test_kohya_text():
    side = read_tags("newest, 1girl,  long hair , saber \\(fate\\), ^_^,\n")
    assert side.tags == ["newest", "1girl", "long hair", "saber (fate)", "^_^"]


def test_one_tag_a_line_with_groups_as_hydrus_and_grabber_write_it():
    side = read_tags("1girl\nlong hair\ncharacter:saber\nseries:fate\ncreator: nobody\nrating:explicit\n:3\nre:zero\n")
    assert side.tags == ["1girl", "long hair", ":3", "re:zero"]
    assert side.groups == {"character": ["saber"], "series": ["fate"], "artist": ["nobody"]}
    assert side.rating == "e"


def test_a_sentence_is_text_and_no_tag():
    side = read_tags("A girl with silver hair stands on a bridge over the river.\n")
    assert (side.tags, side.text) == ([], "A girl with silver hair stands on a bridge over the river.")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp932"])
def test_text_in_the_encodings_people_have(encoding):
    assert read_sidecar("a.txt", "初音ミク, 1girl".encode(encoding)).tags == ["初音ミク", "1girl"]


def test_many_sidecars_are_joined_and_the_table_has_the_last_word():
    table = read_table("t.csv", b'file_name,tags,rating,artist,side_site\nb.png,"solo, long hair",e,me,my site\n')
    side = read_sidecars("a/b.png", [("b.txt", b"1girl, solo"), ("b.json", b'{"tags": "1girl smile", "rating": "g"}')], table)
    assert side.tags == ["1girl", "solo", "smile", "long hair"]
    assert (side.rating, side.site, side.groups) == ("e", "my site", {"artist": ["me"]})


def test_a_table_as_json_lines_by_path():
    table = read_table("t.jsonl", b'{"path": "x/b.png", "tags": ["a b", "c"], "date": "2021"}\n\n')
    assert read_sidecars("x/b.png", [], table).tags == ["a b", "c"]
    assert read_sidecars("x/b.png", [], table).date == "2021"
    assert read_sidecars("x/c.png", [], table).tags == []


@pytest.mark.parametrize("path", ["b.png", "a/b.png", "s.tar::b.png", "s.tar::a/b.png", "a/s.tar::b.png"])
def test_a_bare_file_name_in_a_table_finds_a_picture_wherever_it_lies(path):
    table = read_table("t.csv", b"file_name,tags\nb.png,smile\n")
    assert read_sidecars(path, [], table).tags == ["smile"]


def test_a_table_that_names_no_pictures_is_an_error():
    with pytest.raises(UserError, match="scan.sidecar_table"):
        read_table("t.csv", b"tags,rating\n1girl,g\n")


@pytest.mark.parametrize(("value", "iso"), [
    ("2021-03-04", "2021-03-04"), ("2021", "2021"), (1229000000, "2008-12-11T12:53:20+00:00"), ("1229000000",
                                                                                                "2008-12-11T12:53:20+00:00"),
    ({"s": 1229000000, "n": 5}, "2008-12-11T12:53:20+00:00"), ("2008-08-12 04:46:05", "2008-08-12T04:46:05+00:00"),
    ("2013-11-08T21:44:54.588-05:00", "2013-11-09T02:44:54+00:00"), ("2012-03-11T14:31:00Z", "2012-03-11T14:31:00+00:00"),
    ("Fri, 01 May 2020 10:00:00 +0200", "2020-05-01T08:00:00+00:00"), ("yesterday", None), (None, None), (0, None), (10**30,
                                                                                                                     None),
                                                                                                                     ("", None),
    (True, None),
])  # fmt: skip
def test_dates(value, iso):
    assert iso_date(value) == iso


def test_a_sidecar_that_cannot_be_read_is_named():
    side = read_sidecars("a.png", [("a.json", b"{nonsense"), ("a.txt", b"1girl")])
    assert side.tags == ["1girl"]
    assert side.extra == {"unreadable": ["a.json"]}


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(["s",
                                                                                                                      "R-18",
                                                                                                                      "1e9"]),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([
                        "tags", "tag_string", "tag_string_artist", "tags_meta", "rating", "score", "id", "date",
                        "created_at", "user", "author",
                        "name", "s", "total", "post", "posts", "x_restrict", "category", "source", "title", "artist",
                        "sensitive", "other",
                        "hashtags"]), inner, max_size=6), max_leaves=20)  # fmt: skip


@given(JSON, st.booleans())
def test_any_json_fits_the_columns(value, as_table):
    beside = [("a.json", json.dumps(value).encode())]
    table = {"a.png": value} if as_table and isinstance(value, dict) else None
    row = read_sidecars("a.png", beside, table).columns()
    pa.RecordBatch.from_pylist([row], schema=pa.schema(list(SIDE)))


@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.json", "a.caption", "a.tags"]))
def test_any_bytes_fit_the_columns(content, name):
    row = read_sidecars("a.png", [(name, content)]).columns()
    pa.RecordBatch.from_pylist([row], schema=pa.schema(list(SIDE)))
