"""`sote curate tag`: tags for the pictures of a plain folder, by all of kohya's flags."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.curate_models import cache_folder

REPO, KOHYAS_REPO = "SmilingWolf/wd-swinv2-tagger-v3", "SmilingWolf/wd-v1-4-convnext-tagger-v2"
FLOOR = 0.05  # what is less likely is not kept for later thresholds
IN_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("tag")
@click.argument("train_data_dir", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repo_id", metavar="ID", help=f"The tagger on the hub.  [{REPO}; with --compat kohya {KOHYAS_REPO}]")
@click.option("--model_dir", type=IN_FOLDER, default="wd14_tagger_model", show_default=True,
              help="Where taggers lie, each in a folder called ID with _ for /; fetched if missing.")
@click.option("--force_download", is_flag=True, help="Fetch the tagger again.")
@click.option("--batch_size", type=click.IntRange(1), default=1, show_default=True, help="Pictures at a time.")
@click.option("--max_data_loader_n_workers", type=click.IntRange(0), metavar="N", help="Threads that decode.  [1]")
@click.option("--caption_extention", help="The same as --caption_extension, as it was once spelt.")
@click.option("--caption_extension", default=".txt", show_default=True, help="The ending of caption files.")
@click.option("--thresh", type=float, default=0.35, show_default=True, help="From which probability a tag counts.")
@click.option("--general_threshold", type=float, help="The same for general tags alone.  [--thresh]")
@click.option("--character_threshold", type=float, help="The same for characters alone.  [--thresh]")
@click.option("--recursive", is_flag=True, help="Folders inside DIR too.")
@click.option("--remove_underscore", is_flag=True, help="Write long_hair as long hair.")
@click.option("--debug", is_flag=True, help="Show each picture's tags.")
@click.option("--undesired_tags", default="", help="Tags to leave out, separated.")
@click.option("--frequency_tags", is_flag=True, help="Print how often each tag was found.")
@click.option("--onnx", is_flag=True, help="Use the ONNX model. No other kind is opened here, with or without this flag.")
@click.option("--append_tags", is_flag=True, help="Keep what a caption has and add to it.")
@click.option("--use_rating_tags", is_flag=True, help="The rating as first tag.")
@click.option("--use_rating_tags_as_last_tag", is_flag=True, help="The rating as last tag.")
@click.option("--character_tags_first", is_flag=True, help="Characters before general tags.")
@click.option("--always_first_tags", help="Tags to put in front where they are found, separated.")
@click.option("--caption_separator", default=", ", show_default="', '", help="What stands between tags.")
@click.option("--tag_replacement", metavar="A,B;C,D", help=r"Write B for A and D for C; \, and \; stand for themselves.")
@click.option("--character_tag_expand", is_flag=True, help="Write saber_(fate) as saber, fate.")
@click.option("--compat", type=click.Choice(["kohya"]), help="Write, byte for byte, what kohya's script wrote at cae5aa0a.")
@click.option("--provider", default="auto", show_default=True, help="cpu, cuda, rocm, openvino, or auto for the best installed.")
@click.option("--threads", type=click.IntRange(0), default=0, show_default="one per core", help="Of the tagger on a CPU.")
@click.option("--cache", type=IN_FOLDER, help="Where probabilities are kept for other thresholds.  [~/.cache/sotediffusion/tags]")
def command(**given: Any) -> None:
    """Write the tags of each picture in DIR into a caption file beside it.

    The flags are those of kohya's tag_images_by_wd14_tagger.py, by their names. Without --compat its faults are mended: a second
    run changes nothing, faces like ^_^ keep their underscore, transparency is laid on white, Exif's orientation is heeded, other
    thresholds need no second look. Pictures that the policy refuses get no caption and are counted.

    Example: sote curate tag pictures --recursive --remove_underscore --append_tags --batch_size 4
    """
    from tqdm import tqdm

    from sotediffusion.curate.inference.fetch import fetch_tagger
    from sotediffusion.curate.tag.folder import FolderTagger, find_pictures
    from sotediffusion.curate.tag.step import Tagger

    kohya = given["compat"] is not None
    repo = given["repo_id"] or (KOHYAS_REPO if kohya else REPO)
    manner_of = _manner(given)
    folder = fetch_tagger(given["model_dir"], repo, given["force_download"], say=lambda file: _say(f"fetching {file}"))
    tagger = Tagger(folder, given["provider"], given["threads"])
    manner = manner_of(tagger.tags)
    pictures = find_pictures(given["train_data_dir"], manner, given["recursive"])
    _say(f"{len(pictures)} pictures, {tagger.path} on {tagger.provider}")
    _notes(given, tagger)
    store = None if kohya else _store(given, tagger)
    work = FolderTagger(tagger, manner, store, given["batch_size"], given["max_data_loader_n_workers"] or 1)
    _report(tqdm(work.run(pictures), total=len(pictures), unit="picture", disable=None), given)


def _manner(given: dict[str, Any]) -> Any:
    """What makes the manner out of a list of tags, the flags already checked."""
    from dataclasses import fields
    from functools import partial

    from sotediffusion.curate.compose.cuts import CutSettings
    from sotediffusion.curate.tag.kohya import Flags, Kohya
    from sotediffusion.curate.tag.sidecar_tags import Repaired

    flags = Flags(**{field.name: given[field.name] for field in fields(Flags)})
    if given["caption_extention"] is not None:
        flags = Flags(**{**vars(flags), "caption_extension": given["caption_extention"]})
    return partial(Kohya, flags) if given["compat"] else partial(Repaired, flags, not_series=CutSettings().not_series)


def _notes(given: dict[str, Any], tagger: Any) -> None:
    if given["compat"] and not given["onnx"]:
        _say("note: without --onnx kohya opens a TensorFlow model; here it is the ONNX one all the same")
    if tagger.batch not in (None, given["batch_size"]):
        _say(f"note: --batch_size {given['batch_size']} is not the model's, which takes {tagger.batch} at a time")


def _store(given: dict[str, Any], tagger: Any) -> Any:
    """Where this tagger's probabilities are kept, by the hashes of what they depend on."""
    from sotediffusion.curate.inference.published import file_hash
    from sotediffusion.curate.tag.store import TagStore

    thresholds = [given[name] for name in ("thresh", "general_threshold", "character_threshold") if given[name] is not None]
    floor = min(FLOOR, *thresholds)
    name = f"{file_hash(tagger.path)[:16]}-{tagger.tags.sha256[:16]}-{floor:g}.sqlite"
    return TagStore((given["cache"] or cache_folder() / "tags") / name, len(tagger.tags.names), floor)


def _report(results: Any, given: dict[str, Any]) -> None:
    """Show what became of the pictures, then how many of each kind there were."""
    counts: Counter[str] = Counter()
    tags: Counter[str] = Counter()
    for result in results:
        counts[result.what] += 1
        if result.reason:
            results.write(f"{result.path}: {result.reason}", file=_stderr())
        if result.chosen is not None:
            found = result.chosen
            tags.update([*found.general, *found.characters, *found.rating])
            if given["debug"]:
                results.write(_debug(result.path, found, given["caption_separator"]), file=_stderr())
    if given["frequency_tags"]:
        click.echo("Tag frequencies:")
        for tag, count in sorted(tags.items(), key=lambda item: -item[1]):
            click.echo(f"{tag}: {count}")
    if counts["refused"]:
        _say(f"{counts['refused']} refused by the policy, no caption written")
    if counts["failed"]:
        _say(f"{counts['failed']} passed over")
    _say(f"{counts['written']} captions written, {counts['unchanged']} unchanged")


def _debug(path: Path, found: Any, separator: str) -> str:
    groups = (("Rating", found.rating), ("Character", found.characters), ("General", found.general))
    return "\n".join([f"{path}:", *(f"\t{name} tags: {separator.join(items)}" for name, items in groups)])


def _stderr() -> Any:
    import sys

    return sys.stderr


def _say(line: str) -> None:
    from sotediffusion.cli.main import one_line

    click.echo(one_line(line), err=True)
