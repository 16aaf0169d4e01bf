"""Claims about how a run is shown: everything on one page that trusts nothing, and the same in a terminal."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from sotediffusion.cli.main import main
from sotediffusion.pictures.files import save_picture
from sotediffusion.train.report.curves import Curve, plot, smoothed, thinned, ticks
from sotediffusion.train.report.lines import spark
from sotediffusion.types import Picture

EVIL = "<script>alert(1)</script> & \"quotes\" \x1b[31m"


def sote(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def a_run(folder: Path, outcome: str = "running") -> Path:
    """What a loop and a journal would have written."""
    folder.mkdir()
    numbers = {"loss at logsnr -10..-6": 0.1, "loss at logsnr -1..+1": 0.5, "gradient norm": 2.0, "MFU": 0.25}
    lines = [{"images": 100 * (n + 1), "total": 1000, "progress": (n + 1) / 10, "loss": 1 / (n + 1), "lr": 1e-4, "speed": 5.0,
              "seconds": 60.0 * (n + 1), "numbers": numbers, "steps": n, "outcome": "running"} for n in range(6)]  # fmt: skip
    lines.append(lines[-1] | {"outcome": outcome})
    (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"images": 7')
    held = [{"images": n, "loss": 0.5 - n / 2000, "loss at logsnr -1..+1": 0.4} for n in (0, 300, 600)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held))
    (folder / "settings.toml").write_text(f"name = {json.dumps(EVIL)}\n")
    (folder / "models" / "card-base").mkdir(parents=True)
    for images in range(0, 1200, 100):
        about = {"prompt": EVIL, "width": 64, "height": 64, "seed": 1, "guidance": 7.0}
        point = folder / "drawn" / f"{images:012d}"
        save_picture(Picture(Image.new("RGB", (64, 64), (images % 256, 0, 0)), 1, about), point / "00.png")
        (point / "sheet.webp").write_bytes(b"")
    return folder


def test_a_run_is_one_page_that_asks_for_nothing_and_trusts_nothing(tmp_path, capsys):
    assert sote("train", "report", a_run(tmp_path / "run")) == 0
    assert "report.html" in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href|url\()=?[\"']?(https?:|//)", page)
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    assert page.count("data:image/webp;base64") == 8  # of twelve points the first, the last and six between
    assert "1.1k</figcaption>" in page and "held out" in page and "Loss by noise level" in page and "25%" in page
    assert "<b>6 min</b><span>trained" in page
    assert page.count("<polyline") >= 8


def test_a_run_is_seen_in_a_terminal_which_its_names_cannot_steer(tmp_path, capsys):
    assert sote("train", "watch", a_run(tmp_path / "run"), "--once") == 0
    out = capsys.readouterr().out
    assert "60.0%" in out and "600 of 1,000 images" in out and "4 min left" in out and "MFU 25.0%" in out
    assert "log-SNR -10..-6" in out and "card-base" in out and "\x1b" not in out
    assert sote("train", "watch", a_run(tmp_path / "done", "finished")) == 0  # leaves by itself


def test_a_folder_without_a_run_is_refused_in_a_sentence(tmp_path, capsys):
    assert sote("train", "watch", tmp_path) == 2 and "no stats.jsonl" in capsys.readouterr().err
    (tmp_path / "stats.jsonl").write_text("")
    assert sote("train", "report", tmp_path) == 2 and "not reported anything yet" in capsys.readouterr().err


def test_curves_keep_their_ends_and_axes_are_round():
    points = [(float(x), float(x % 7)) for x in range(10_000)]
    few = thinned(points)
    assert len(few) == 300 and few[0][0] == 0 and few[-1][0] == 9999
    assert smoothed([(0, 1.0), (1, 3.0)], 1.0) == [(0, 1.0), (1, 2.0)]
    assert ticks(0.03, 0.97, False) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert ticks(0.002, 30, True) == pytest.approx([0.01, 0.1, 1, 10])
    assert ticks(0.06, 1.6, True) == pytest.approx([0.1, 0.2, 0.5, 1])
    assert plot([Curve("one", [(0, 1.0)])]) is None and plot([Curve("none", [(0, 0.0), (1, -1.0)])], True) is None
    assert "NaN" not in str(plot([Curve("flat", [(0, 1.0), (1, 1.0), (2, float("nan"))])], True)).replace("nan", "NaN")
    assert spark([(0, 1.0), (1, 2.0), (2, 3.0)]) == "\u2581\u2584\u2588"
