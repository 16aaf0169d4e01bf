"""The JSON of one post as boorus and gallery-dl write it, in every dialect there is, as a Side.

Fields read, first found first. Boorus and gallery-dl:
  tags    tags, tag_string (text at blanks or commas, list, list of {name, translated_name}), hashtags
  groups  tag_string_X and tags_X (Danbooru, gallery-dl), or a dict of lists `tags` (e621); X as in GROUPS
  rating  rating (letters, words, R-18), x_restrict (pixiv 0 1 2), possibly_sensitive and sensitive (social sites)
  date    created_at (ISO, unix, ctime, {s: unix}), create_date, date, published_at, published, upload_date
  site    category (gallery-dl), site, or by the host in post_url, file_url, source
  id      id, tweet_id, post_id; score: score, score.total, total_bookmarks, fav_count, favorite_count, likes
  artist  beside the group: user.name (pixiv), author.nick, author.name
  text    title, caption, description, content, text; all else goes into `extra` as found
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from sotediffusion.curate.scan.side import Side, clip, plain_text, storable, unescaped

GROUPS = {
    "general": "general", "species": "general", "lore": "general",
    "character": "character", "characters": "character",
    "copyright": "series", "copyrights": "series", "series": "series", "parody": "series", "parodies": "series",
    "artist": "artist", "artists": "artist", "creator": "artist", "contributor": "artist", "director": "artist",
    "circle": "artist", "studio": "artist", "group": "artist",
    "meta": "meta", "metadata": "meta", "style": "meta", "medium": "meta",
}  # fmt: skip
RATINGS = {
    "g": "g", "general": "g", "safe": "g", "all ages": "g", "sfw": "g",
    "s": "s", "sensitive": "s",
    "q": "q", "questionable": "q", "nsfw": "q", "suggestive": "q", "mature": "q",
    "e": "e", "explicit": "e", "explicit nsfw": "e", "r-18": "e", "r-18g": "e", "r18": "e", "adult": "e",
}  # fmt: skip
_SITES = {
    "donmai.us": "danbooru", "gelbooru.com": "gelbooru", "yande.re": "yandere", "konachan.com": "konachan",
    "konachan.net": "konachan", "safebooru.org": "safebooru", "sankakucomplex.com": "sankaku", "e621.net": "e621",
    "pixiv.net": "pixiv", "pximg.net": "pixiv", "twitter.com": "twitter", "x.com": "twitter", "twimg.com": "twitter",
    "zerochan.net": "zerochan", "anime-pictures.net": "anime-pictures",
}  # fmt: skip
_DANBOORU = {"danbooru", "aibooru", "safe.aibooru"}  # where the rating s means sensitive; older and other boorus mean safe
_TAG_KEYS = ("tags", "tag_string", "hashtags")
_DATE_KEYS = ("created_at", "create_date", "date", "published_at", "published", "upload_date")
_TEXT_KEYS = ("title", "caption", "description", "content", "text")
_SCORE_KEYS = ("score", "total_bookmarks", "fav_count", "favorite_count", "likes")


def read_post(post: Mapping[str, Any], commas: bool = False) -> Side:
    """The JSON of one post, in whatever dialect; `commas` where its text of tags is parted by commas alone."""
    side = Side()
    for key in _TAG_KEYS:
        _take_tags(side, post.get(key), commas)
    for key, value in post.items():
        prefix, _, kind = key.rpartition("_")
        group = (
            GROUPS.get(kind)
            if prefix in ("tag_string", "tags")
            else GROUPS.get(key)
            if isinstance(value, list) or commas
            else None
        )
        if group and value:
            side.groups[group] = list(dict.fromkeys([*side.groups.get(group, []), *_split(value, commas)]))
    side.site = _site(post)
    side.rating = _rating(post, side.site)
    side.date = next((date for key in _DATE_KEYS if (date := iso_date(post.get(key)))), None)
    side.id = next((str(post[key]) for key in ("id", "tweet_id", "post_id") if _is_scalar(post.get(key))), None)
    side.score = next((score for key in _SCORE_KEYS if (score := _score(post.get(key))) is not None), None)
    side.text = plain_text(
        "\n".join(str(post[key]) for key in _TEXT_KEYS if isinstance(post.get(key), str) and post[key].strip())
    )
    artist = _author(post)
    if artist and not side.groups.get("artist"):
        side.groups["artist"] = [artist]
    side.extra = _rest(post)
    return side


def _take_tags(side: Side, value: Any, commas: bool) -> None:
    if isinstance(value, Mapping):
        for kind, names in value.items():
            if isinstance(names, list):
                side.groups.setdefault(GROUPS.get(str(kind).lower(), "general"), []).extend(_split(names, commas))
            elif isinstance(names, int | float):  # a tag with its probability
                side.tags.append(str(kind))
    elif value:
        side.tags = list(dict.fromkeys([*side.tags, *_split(value, commas)]))


def _split(value: Any, commas: bool) -> list[str]:
    if isinstance(value, str):
        parts = re.split(r"[,;]", value) if commas or ", " in value else value.split()
        return clip([unescaped(part.strip()) for part in parts if part.strip()])
    if isinstance(value, list | tuple):
        names = [item if isinstance(item, str) else _name(item) for item in value]
        return clip([name.strip() for name in names if name and name.strip()])
    return []


def _name(item: Any) -> str | None:
    if not isinstance(item, Mapping):
        return None
    name = item.get("translated_name") or item.get("name") or item.get("tag")
    return name if isinstance(name, str) else None


def unwrapped(value: Any) -> Mapping[str, Any]:
    """The post inside `{"post": ...}`, `{"posts": [...]}` or a list of one."""
    for _ in range(3):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        elif isinstance(value, Mapping) and isinstance(value.get("post", value.get("posts")), Mapping | list):
            value = value.get("post", value.get("posts"))
    if not isinstance(value, Mapping):
        raise ValueError("no post in it")
    return value


def _rating(post: Mapping[str, Any], site: str | None) -> str | None:
    value = post.get("rating")
    letter = RATINGS.get(value.strip().lower()) if isinstance(value, str) else None
    if value == "s" and site not in _DANBOORU:
        letter = "g"
    restrict = post.get("x_restrict")
    if isinstance(restrict, int) and not isinstance(restrict, bool):
        return "e" if restrict > 0 else letter
    if letter is None and (post.get("possibly_sensitive") is True or post.get("sensitive") is True):
        return "q"
    return letter


def _site(post: Mapping[str, Any]) -> str | None:
    for key in ("category", "site"):
        if isinstance(post.get(key), str) and post[key].strip():
            return str(post[key]).strip().lower()[:60]
    if "tag_string_general" in post:
        return "danbooru"
    for key in ("post_url", "file_url", "url", "source"):
        host = _host(post.get(key))
        for end, name in _SITES.items():
            if host == end or host.endswith("." + end):
                return name
    return None


def _host(url: Any) -> str:
    try:
        return (urlsplit(url).hostname or "") if isinstance(url, str) else ""
    except ValueError:
        return ""


def _author(post: Mapping[str, Any]) -> str | None:
    for key, names in (("user", ("name",)), ("author", ("nick", "name"))):
        person = post.get(key)
        if isinstance(person, Mapping):
            return next(
                (storable(person[n].strip())[:200] for n in names if isinstance(person.get(n), str) and person[n].strip()), None
            )
    return None


def _score(value: Any) -> int | None:
    if isinstance(value, Mapping):
        value = value.get("total")
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,9}", value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return int(max(-(2.0**31), min(2.0**31 - 1, value)))


def iso_date(value: Any) -> str | None:
    """A moment as boorus write it, in ISO form and UTC; None where it is no date.

    A text without a zone is taken as UTC, as gallery-dl writes it; a bare day or year stays as it is.
    """
    if isinstance(value, Mapping):
        value = value.get("s")
    if isinstance(value, str) and re.fullmatch(r"\d{4}(-\d\d){0,2}", value.strip()):
        return value.strip()
    if isinstance(value, str) and re.fullmatch(r"\d{9,11}", value.strip()):
        value = int(value)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _utc(datetime.fromtimestamp(value, UTC)) if value > 0 else None
        return _utc(_parsed(value.strip())) if isinstance(value, str) and value.strip() else None
    except (ValueError, OverflowError, OSError, TypeError, IndexError):
        return None


def _parsed(text: str) -> datetime:
    for form in ("%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d"):
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _utc(moment: datetime) -> str:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(microsecond=0).isoformat()


def _rest(post: Mapping[str, Any]) -> dict[str, Any]:
    """The keys not read above, without long texts and anything nested deeper than one level."""
    kept: dict[str, Any] = {}
    for key, value in post.items():
        if key in _TAG_KEYS or key.startswith(("tag_string", "tags_", "_")):
            continue
        if isinstance(value, Mapping):
            value = {str(k): _short(v) for k, v in list(value.items())[:40] if _is_scalar(v)}
        elif isinstance(value, list):
            value = [_short(item) for item in value[:40] if _is_scalar(item)]
        if _is_scalar(value) or value:
            kept[storable(str(key))[:60]] = _short(value)
    return kept


def _short(value: Any) -> Any:
    return storable(value[:500]) if isinstance(value, str) else value


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float) and value != ""
