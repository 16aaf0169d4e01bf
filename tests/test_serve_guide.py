"""The unit for systemd that docs/serve.md shows is one that systemd takes, and stops as the server wants to be stopped."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.run import LEAVE_S

GUIDE = (Path(__file__).parent.parent / "docs" / "serve.md").read_text(encoding="utf-8")


def unit() -> str:
    """The unit as an operator copies it."""
    found = re.search(r"( {4}# /etc/systemd/system/sotediffusion\.service\n(?: {4}.*\n|\n)+)", GUIDE)
    assert found is not None
    return "\n".join(line.removeprefix("    ") for line in found[1].splitlines()) + "\n"


def test_the_unit_waits_longer_than_the_worker_finishes_its_jobs_and_asks_the_server_alone():
    text = unit()
    wait = re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert wait is not None and int(wait[1]) > WorkerSettings("", "", {}).drain_s + LEAVE_S
    assert "\nKillMode=mixed\n" in text and "\nExecStart=/opt/sotediffusion/bin/sote serve " in text


@pytest.mark.system
def test_systemd_has_nothing_to_say_against_the_unit(tmp_path):
    file = tmp_path / "sotediffusion.service"

    def verified(text: str) -> subprocess.CompletedProcess[str]:
        file.write_text(text.replace("/opt/sotediffusion/bin/sote", sys.executable))  # there is no /opt here
        return subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)

    good, bad = verified(unit()), verified(unit().replace("KillMode=", "KillMood="))
    assert (good.returncode, good.stderr) == (0, ""), good.stderr
    assert "KillMood" in bad.stderr
