"""Tests of what is not installed are left out, but never where everything is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASKING = "import pytest\n\n\ndef test_it():\n    pytest.importorskip('no_such_part')\n"


@pytest.mark.parametrize(("every", "code"), [("", 0), ("1", 1)])
def test_a_missing_part_is_a_failure_where_every_part_should_be_there_and_else_a_skip(tmp_path, every, code):
    (tmp_path / "test_asking.py").write_text(ASKING)
    environment = os.environ | {"SOTE_EVERY_PART": every, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout
