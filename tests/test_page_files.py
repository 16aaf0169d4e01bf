"""The page's files keep the promises that need no browser: nothing inline, nothing from elsewhere, nothing missing."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from sotediffusion.pictures import recall
from sotediffusion.serve import front

WEB = Path(front.__file__).parent / "web"
OURS = sorted(path for path in WEB.rglob("*") if path.is_file() and (path.parent.name != "vendor" or path.name == "ui.js"))
SCRIPTS = [path for path in OURS if path.suffix == ".js"]
TEXTS = {path.relative_to(WEB).as_posix(): path.read_text() for path in OURS}
VENDORED = {path.name: path.read_text() for path in (WEB / "vendor").glob("*.js") if path not in OURS}


def test_the_page_has_no_inline_script_or_style():
    page = (WEB / "index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|javascript:", page)
    assert all(re.search(r"src=", tag) for tag in re.findall(r"<script[^>]*>", page))


def test_nothing_comes_from_elsewhere():
    said = [(name, url) for name, text in TEXTS.items() for url in re.findall(r"https?://[^\s\"'`)]+", text)]
    assert [found for found in said if found[1] != "http://www.w3.org/2000/svg"] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_import_is_a_file_of_the_page_that_has_that_name(path):
    for names, source in re.findall(r"(?:import|export)\s+(?:([^;\"]*?)\s+from\s+)?\"([^\"]+)\"", path.read_text()):
        target = (path.parent / source).resolve()
        assert source.startswith("."), source
        assert target.is_file() and WEB in target.parents, source
        for name in re.findall(r"[\w$]+(?=\s*(?:,|\}|$| as ))", names.partition("{")[2].partition("}")[0]):
            exports = rf"export[^;]*\b{re.escape(name)}\b|as {re.escape(name)}\b"
            assert re.search(exports, target.read_text(), re.DOTALL), f"{source}: {name}"


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(WEB)))
def test_files_stay_short_and_say_what_they_are_for(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 350
    assert path.suffix != ".js" or lines[0].startswith("// ")


def test_no_text_of_a_stranger_becomes_markup():
    markup = r"innerHTML|dangerouslySet|insertAdjacentHTML|document\.write"
    assert not [name for name, text in TEXTS.items() if re.search(markup, text)]


def test_libraries_keep_their_licences():
    table = (WEB / "vendor" / "README.md").read_text()
    for name in VENDORED:
        assert name in table
    for licence in re.findall(r"\((\w+\.LICENSE)\)", table):
        assert "Licen" in (WEB / "vendor" / licence).read_text()
    assert not [name for name, text in VENDORED.items() if re.search(r"\beval\(|new Function|sourceMappingURL", text)]
    assert sum(map(len, VENDORED.values())) < 40_000


def test_the_page_knows_every_program_that_settings_are_read_of():
    words = (WEB / "state" / "words.js").read_text()
    origins = set(re.findall(r"(\w+)", re.search(r"# (sote, [\w, ]+);", Path(recall.__file__).read_text())[1]))
    assert origins == set(re.findall(r"(\w+): \"", re.search(r"ORIGINS = \{(.*?)\};", words, re.DOTALL)[1]))


@pytest.mark.system
def test_prompts_as_text():
    """The pure functions, run by node."""
    code = """
      const p = await import(process.argv[1]);
      const turned = (text, from, to, by) => { const c = p.reweigh(text, from, to, by); return c && text.slice(0, c.start) + c.text + text.slice(c.end); };
      const Q = ["best quality", "high quality"];
      console.log(JSON.stringify([
        turned("1girl, cat ears, smile", 9, 9, 1), turned("1girl, (cat ears:1.1), smile", 10, 10, 1), turned("1girl, (cat ears:1.1)", 8, 16, -1),
        turned("a cat, ", 7, 7, 1), turned("", 0, 0, 1), turned("(x:10)", 2, 2, 1),
        p.chooseTag("newest, best quality, 1girl", Q, "high quality"), p.chooseTag("newest, best quality, 1girl", Q, "best quality"),
        p.chooseTag("1girl", Q, "best quality"), p.chooseTag("(a, best quality:1.2)", Q, "high quality"),
        p.tagsOf("(cat ears:1.2), a\\\\(b\\\\), [Z]"), p.written("school_(blue_archive)"), p.written("^_^"), p.wordAt("1girl, cat_e", 12).text,
        p.withStyles("1girl, ", [{ prompt: "{prompt}, ink" }, { prompt: "end" }, { prompt: "" }], "prompt"),
        p.splitLoras("1girl, soft <lora:ink:0.8> <lora: a b >"), p.splitLoras("1girl, "),
      ]));"""  # noqa: E501
    script = WEB / "state" / "prompt-text.js"
    command = ["node", "--input-type=module", "--experimental-default-type=module", "-e", code, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "1girl, (cat ears:1.1), smile", "1girl, (cat ears:1.2), smile", "1girl, cat ears", "(a cat:1.1), ", None, None,
        "newest, high quality, 1girl", "newest, 1girl", "best quality, 1girl", "high quality, (a, best quality:1.2)",
        ["cat ears", "a(b)", "z"], "school \\(blue archive\\)", "^_^", "cat_e", "1girl, ink, end",
        {"text": "1girl, soft", "loras": [{"name": "ink", "weight": 0.8}, {"name": "a b", "weight": 1}]},
        {"text": "1girl, ", "loras": []},
    ]  # fmt: skip
