"""Work on a catalogue's tags: look them up, rename and merge them by rules that captions are composed by, list them for editors.

The rules lie in CATALOGUE/tags.toml, in the form of the section [compose.tags]; the next run composes by them.
"""

import csv
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from io import StringIO
from typing import Any

from sotediffusion.config import build, plain, to_toml
from sotediffusion.curate.compose.step import ComposeSettings
from sotediffusion.curate.compose.tagrules import TagSettings, check
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.report.stats import Catalogue, Line, tag_counts
from sotediffusion.safety.policy import check_tags
from sotediffusion.types import UserError

RULES = "tags.toml"
CATEGORIES = {"rest": 0, "custom": 5, "series": 3, "character": 4}  # numbers of Danbooru's categories; custom as meta


def read_rules(store: Store) -> TagSettings:
    """The rules kept in a catalogue; none where there are none. UserError for a file that is none of ours."""
    try:
        return build(TagSettings, tomllib.loads(store.read(RULES).decode("utf-8")), "tags")
    except FileNotFoundError:
        return TagSettings()
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError("tags", f"{store.path(RULES)} is not TOML ({error}); mend or delete it") from None


def with_rules(settings: ComposeSettings, store: Store) -> ComposeSettings:
    """The settings with the catalogue's own rules on top of them."""
    kept, given = read_rules(store), settings.tags
    both = replace(
        given,
        rename=_chained(given.rename | kept.rename),
        blacklist=tuple(dict.fromkeys((*given.blacklist, *kept.blacklist))),
        implications=given.implications | kept.implications,
    )
    check(both)
    return replace(settings, tags=both)


def rename(store: Store, old: Iterable[str], new: str) -> TagSettings:
    """Keep the rule that tags are written as `new` from now on; several become one. Returns all rules.

    Renaming a tag to itself takes its rule back. UserError for names that captions cannot have.
    """
    rules, names = read_rules(store), [name.strip() for name in old]
    for name in (*names, new):
        if not name.strip() or "," in name or not name.isprintable():
            raise UserError("tag", f"{name[:80]!r} cannot be a tag; write it as in captions, without a comma")
    if check_tags([new]) is not None:
        raise UserError("tag", f"{new!r} is refused by the policy; take another name")
    table = {**rules.rename, **{name: new.strip() for name in names}}
    changed = replace(rules, rename=_chained({key: value for key, value in table.items() if key != value}))
    check(changed)
    store.write(RULES, to_toml(_changes(changed)).encode())
    return changed


def search(catalogue: Catalogue, words: str, most: int = 30) -> list[Line]:
    """Tags of captions that hold all the words, exact ones first, then by count; the detail is the group."""
    wanted = words.casefold().replace("_", " ").split()
    found = [line for line in counted(catalogue) if all(word in line.name.casefold() for word in wanted)]
    return sorted(found, key=lambda line: (line.name.casefold() != " ".join(wanted), -line.count, line.name))[:most]


def counted(catalogue: Catalogue) -> list[Line]:
    """All tags of captions with counts and groups, most frequent first."""
    if not catalogue.has("caption"):
        raise UserError("catalogue", "there are no captions in it yet; run it without --skip compose")
    table = tag_counts(catalogue)
    columns = (table[name].to_pylist() for name in ("tag", "count", "group"))
    return [Line(tag, count, group) for tag, count, group in zip(*columns, strict=True)]


def autocomplete(lines: Iterable[Line], renamed: Mapping[str, str]) -> str:
    """CSV without a head, as editors with autocompletion read it: name with underscores, category, count, aliases."""
    aliases: dict[str, list[str]] = {}
    for old, new in renamed.items():
        aliases.setdefault(new, []).append(_underscored(old))
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for line in lines:
        writer.writerow(
            [_underscored(line.name), CATEGORIES[line.detail], line.count, ",".join(sorted(aliases.get(line.name, [])))]
        )
    return file.getvalue()


def _chained(table: dict[str, str]) -> dict[str, str]:
    """a -> b and b -> c as a -> c and b -> c; UserError for a circle."""
    done = {}
    for old in table:
        seen, name = {old}, table[old]
        while name in table:
            if name in seen:
                raise UserError("tag", f"{old!r} would become itself by way of {name!r}; take one of the rules back first")
            seen.add(name)
            name = table[name]
        done[old] = name
    return done


def _changes(rules: TagSettings) -> dict[str, Any]:
    plain_rules, defaults = plain(rules), plain(TagSettings())
    return {key: value for key, value in plain_rules.items() if value != defaults.get(key)}


def _underscored(name: str) -> str:
    return name.replace(" ", "_")
