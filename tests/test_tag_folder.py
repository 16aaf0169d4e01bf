"""`sote curate tag` on a plain folder, as it is run: captions, the policy, broken files, second runs, and no network."""

import hashlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tiny_models import colour_tagger, constant_tagger

from sotediffusion.cli.curate_tag import command
from sotediffusion.curate.tag.folder import FolderTagger, find_pictures
from sotediffusion.curate.tag.kohya import Flags, Kohya
from sotediffusion.curate.tag.sidecar_tags import Repaired
from sotediffusion.curate.tag.step import Tagger
from sotediffusion.curate.tag.store import TagStore
from sotediffusion.types import UserError

REPO = "SmilingWolf/wd-swinv2-tagger-v3"
GENERAL = ["1girl", "long_hair", "smile", "outdoors", "^_^", "blue_sky"]
PEOPLE = ["saber_(fate)", "hatsune_miku", "rin_(fate)"]
SEED_COMMAND = [  # the model card's, but for where the model lies
    "--repo_id", REPO, "--recursive", "--remove_underscore", "--use_rating_tags", "--character_tags_first",
    "--character_tag_expand", "--append_tags", "--onnx", "--caption_separator", ", ", "--general_threshold", "0.35",
    "--character_threshold", "0.50", "--batch_size", "4", "--caption_extension", ".txt", "./",
]  # fmt: skip


def draw(path: Path, seed: int, size=(60, 40), mode="RGB", **save) -> Path:
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (5, 5, len(mode)), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks, mode).resize(size, Image.Resampling.NEAREST).save(path, **save)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Pictures in two folders, and a tagger where kohya looks for it."""
    colour_tagger(tmp_path / "models" / REPO.replace("/", "_"), GENERAL, PEOPLE, size=32)
    for number, name in enumerate(["a.png", "b.jpg", "c.webp", "sub/d.PNG", "sub/e.bmp", "f.jpeg"]):
        draw(tmp_path / "pictures" / name, number)
    monkeypatch.chdir(tmp_path / "pictures")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "pictures"


def tag(*arguments, code=0):
    result = CliRunner().invoke(command, ["--model_dir", "../models", "--threads", "1", *arguments], catch_exceptions=code == 2)
    if code == 2:
        assert isinstance(result.exception, UserError), result.output
        return result.exception
    assert result.exit_code == code, result.output
    return result


def captions(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.txt"))}


def test_the_cards_command_runs_as_it_stands(folder):
    result = tag(*SEED_COMMAND)
    assert len(captions(folder)) == 6
    assert "6 captions written, 0 unchanged" in result.stderr and "CPUExecutionProvider" in result.stderr
    assert result.stdout == ""


def test_kohyas_manner_writes_what_the_probabilities_say(folder):
    """Read with Pillow, shown to the tagger one by one, put together by the rules: the same bytes."""
    (folder / "a.txt").write_text("newest, art by X\n")
    tag(*SEED_COMMAND[:-1], "--compat", "kohya", ".")
    tagger = Tagger(folder.parent / "models" / REPO.replace("/", "_"), "cpu", 1)
    flags = Flags(general_threshold=0.35, character_threshold=0.5, remove_underscore=True, character_tag_expand=True,
                  character_tags_first=True, use_rating_tags=True, append_tags=True)  # fmt: skip
    kohya = Kohya(flags, tagger.tags)
    for picture in find_pictures(folder, kohya, recursive=True):
        existing = ["newest", "art by X"] if picture.name == "a.png" else []
        probabilities = tagger.probabilities(kohya.load(picture.read_bytes(), 32)[None])[0]
        name = str(picture.relative_to(folder).with_suffix(".txt"))
        assert captions(folder)[name] == kohya.write(kohya.choose(probabilities), existing)


def test_without_recursive_only_the_folder_itself_is_tagged(folder):
    tag(".")
    assert sorted(captions(folder)) == ["a.txt", "b.txt", "c.txt", "f.txt"]


def test_a_second_run_writes_nothing_and_looks_at_nothing(folder, monkeypatch):
    tag(*SEED_COMMAND)
    before, times = captions(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    monkeypatch.setattr(Tagger, "_run", None)  # would fail if it were called
    assert "0 captions written, 6 unchanged" in tag(*SEED_COMMAND).stderr
    assert captions(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")} == times


def test_other_thresholds_need_no_second_look(folder, monkeypatch):
    tag("--thresh", "0.9", "--recursive", ".")
    high = captions(folder)
    monkeypatch.setattr(Tagger, "_run", None)
    tag("--thresh", "0.2", "--recursive", ".")
    low = captions(folder)
    assert low != high
    assert all(set(high[name].strip().split(b", ")) - {b""} <= set(low[name].strip().split(b", ")) for name in high)


def test_a_new_picture_is_the_only_one_looked_at(folder, monkeypatch):
    tag("--recursive", ".")
    draw(folder / "new.png", 99)
    seen = []
    run = Tagger._run
    monkeypatch.setattr(Tagger, "_run", lambda self, views: seen.append(len(views)) or run(self, views))
    tag("--recursive", ".")
    assert seen == [1]


def test_a_threshold_below_the_floor_looks_again(folder):
    tag("--recursive", ".")
    tag("--recursive", "--thresh", "0.001", ".")
    stores = sorted((folder.parent / "cache" / "sotediffusion" / "tags").glob("*.sqlite"))
    assert len(stores) == 2


def test_broken_files_are_named_and_the_run_goes_on(folder):
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (folder / "cut.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    for manner in ([], ["--compat", "kohya", "--onnx", "--repo_id", REPO]):
        result = tag(*manner, ".")
        assert "bad.png: " in result.stderr and "cut.jpg: " in result.stderr and "2 passed over" in result.stderr
        assert len(captions(folder)) == 4


def refusing(folder: Path, *general: str) -> None:
    constant_tagger(folder.parent / "models" / REPO.replace("/", "_"), {"1girl": 0.9, **dict.fromkeys(general, 0.9)}, {}, size=32,
                    ratings=(0.0, 0.1, 0.2, 0.9))  # fmt: skip


@pytest.mark.parametrize("manner", [[], ["--compat", "kohya", "--onnx", "--repo_id", REPO]])
def test_what_the_policy_refuses_gets_no_caption_and_is_counted(folder, manner):
    refusing(folder, "child")
    (folder / "a.txt").write_text("kept as it was\n")
    result = tag(*manner, "--recursive", "--thresh", "0.95", "--frequency_tags", "--debug", ".")
    assert captions(folder) == {"a.txt": b"kept as it was\n"}
    assert "6 refused by the policy, no caption written" in result.stderr
    assert "a.png" not in result.output and "child" not in result.output


def test_of_a_refused_picture_only_its_hash_is_kept(folder):
    refusing(folder, "child")
    tag(".")
    (store,) = (folder.parent / "cache" / "sotediffusion" / "tags").glob("*.sqlite")
    rows = sqlite3.connect(store).execute("SELECT * FROM seen").fetchall()
    assert len(rows) == 4 and {row[1:] for row in rows} == {(None, None)}
    assert hashlib.sha256((folder / "a.png").read_bytes()).digest() in {row[0] for row in rows}
    assert "4 refused" in tag(".").stderr


def test_a_caption_that_was_there_counts_for_the_policy_too(folder):
    refusing(folder)
    (folder / "a.txt").write_text("loli\n")
    assert "1 refused" in tag("--append_tags", ".").stderr
    assert captions(folder)["a.txt"] == b"loli\n" and len(captions(folder)) == 4


def test_transparency_is_white_and_exif_is_heeded_but_for_kohya(folder):
    tags = Tagger(folder.parent / "models" / REPO.replace("/", "_"), "cpu", 1).tags
    manners = {kind: kind(Flags(), tags) for kind in (Kohya, Repaired)}
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    clear.save(folder / "clear.png")
    content = (folder / "clear.png").read_bytes()
    assert (manners[Repaired].load(content, 32) == 255).all()
    assert (manners[Kohya].load(content, 32) == (30, 20, 10)).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(folder / "turned.jpg", 3, size=(64, 32), exif=exif, quality=95)
    content = (folder / "turned.jpg").read_bytes()
    ours, theirs = (manners[kind].load(content, 32) for kind in (Repaired, Kohya))
    assert (ours[:, 0] == 255).all() and (theirs[0] == 255).all()


def test_a_caption_that_is_not_utf8_stops_kohya_and_is_passed_over_here(folder):
    (folder / "b.txt").write_bytes(b"\xff\xfea")
    assert "not UTF-8" in str(tag("--compat", "kohya", "--onnx", "--repo_id", REPO, "--append_tags", ".", code=2))
    assert (folder / "a.txt").exists() and not (folder / "c.txt").exists()
    result = tag("--append_tags", ".")
    assert "b.jpg: its caption b.txt is not UTF-8" in result.stderr and (folder / "c.txt").exists()
    assert (folder / "b.txt").read_bytes() == b"\xff\xfea"


def test_two_pictures_of_one_caption(folder):
    """kohya appends the second to the first; here the second is told of."""
    draw(folder / "a.jpg", 50)
    result = tag(".")
    assert "a.png: a.jpg has the caption a.txt already" in result.stderr
    result = tag("--compat", "kohya", "--onnx", "--repo_id", REPO, ".")
    assert "5 captions written" in result.stderr or "unchanged" in result.stderr
    assert "already" not in result.stderr


def test_frequencies_and_debug_are_printed_like_kohyas(folder):
    constant_tagger(folder.parent / "models" / REPO.replace("/", "_"), {"1girl": 0.9, "solo": 0.2}, {"miku": 0.9}, size=32)
    result = tag("--use_rating_tags", "--frequency_tags", "--debug", "--recursive", ".")
    assert result.stdout == "Tag frequencies:\n1girl: 6\nmiku: 6\nsensitive: 6\n"
    assert "a.png:\n\tRating tags: sensitive\n\tCharacter tags: miku\n\tGeneral tags: 1girl\n" in result.stderr


def test_the_misspelt_flag_still_names_the_extension(folder):
    tag("--caption_extention", ".caption", ".")
    assert (folder / "a.caption").exists()


def test_every_flag_of_kohyas_is_there_by_its_name():
    flags = ("repo_id model_dir force_download batch_size max_data_loader_n_workers caption_extention caption_extension "
             "thresh general_threshold character_threshold recursive remove_underscore debug undesired_tags frequency_tags "
             "onnx append_tags use_rating_tags use_rating_tags_as_last_tag character_tags_first always_first_tags "
             "caption_separator tag_replacement character_tag_expand").split()  # fmt: skip
    assert {f"--{flag}" for flag in flags} <= {option for parameter in command.params for option in parameter.opts}


def test_a_tagger_that_is_not_here_and_cannot_be_fetched_leaves_no_half(folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    error = tag("--repo_id", "Someone/else", ".", code=2)
    assert "Someone/else could not be fetched" in str(error)
    assert not [path for path in (folder.parent / "models").iterdir() if "else" in path.name]


def test_what_cannot_be_done_is_said(folder):
    assert CliRunner().invoke(command, ["nowhere"]).exit_code == 2
    assert "caption_separator" in str(tag("--caption_separator", " ", ".", code=2))
    assert "source,target" in str(tag("--tag_replacement", "a", ".", code=2))
    assert "onnxruntime-gpu" in str(tag("--provider", "cuda", ".", code=2))
    (folder.parent / "models" / REPO.replace("/", "_") / "model.onnx").unlink()
    assert "--force_download" in str(tag(".", code=2))


def test_workers_and_batches_change_nothing(folder, tmp_path):
    kohya = ["--recursive", "--compat", "kohya", "--onnx", "--repo_id", REPO]
    tag(*kohya, ".")
    alone = captions(folder)
    tag(*kohya, "--batch_size", "4", "--max_data_loader_n_workers", "3", ".")
    assert captions(folder) == alone


@pytest.mark.parametrize("after", [2, 5])
def test_a_killed_run_leaves_whole_captions_and_is_gone_on_with(folder, after):
    for number in range(20):
        draw(folder / f"more{number}.png", number)
    code = (f"import os, signal, sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
            "from sotediffusion.curate.tag import folder as tag_folder\n"
            "from sotediffusion.cli.curate_tag import command\n"
            "write, count = tag_folder.write_whole, iter(range(99))\n"
            "def writing(*what):\n"
            f"    if next(count) == {after}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    write(*what)\n"
            "tag_folder.write_whole = writing\n"
            "command(['--model_dir', '../models', '--threads', '1', '--recursive', '.'])\n")  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    assert killed.returncode == -9 and len(captions(folder)) == after
    first = captions(folder)
    tag("--recursive", ".")
    assert len(captions(folder)) == 26 and first.items() <= captions(folder).items()
    assert not list(folder.rglob("*.part"))


def test_a_store_keeps_what_is_above_its_floor(tmp_path):
    store = TagStore(tmp_path / "tags.sqlite", 8, 0.5)
    found = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.49, 0.9, 0], np.float32)
    store.keep(b"one", found)
    store.refuse(b"two")
    store.close()
    again = TagStore(tmp_path / "tags.sqlite", 8, 0.5)
    kept = again.probabilities(b"one")
    assert kept is not None and np.array_equal(kept, np.where(np.arange(8) == 5, np.float32(0), found))
    assert again.probabilities(b"two") is None and again.refused(b"two") and not again.refused(b"one")
    assert again.probabilities(b"three") is None and not again.refused(b"three")
    (tmp_path / "bad.sqlite").write_bytes(b"this is no database at all" * 99)
    with pytest.raises(UserError, match="--cache"):
        TagStore(tmp_path / "bad.sqlite", 8, 0.5)


def test_tagging_tells_nothing_of_the_refused(folder):
    refusing(folder, "child")
    tagger = Tagger(folder.parent / "models" / REPO.replace("/", "_"), "cpu", 1)
    manner = Repaired(Flags(), tagger.tags)
    told = list(FolderTagger(tagger, manner).run(find_pictures(folder, manner, recursive=True)))
    assert len(told) == 6 and all(result.path is None and result.chosen is None and not result.reason for result in told)
