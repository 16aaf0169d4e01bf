"""What every test runs under: one thread, the same examples each time, nothing left behind."""

import importlib
import os

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile(
    "sote", deadline=None, database=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sote")

if os.environ.get("SOTE_EVERY_PART"):  # .ci/run installs all that tests need: there a missing part is a failure and no skip
    pytest.importorskip = lambda name, **_: importlib.import_module(name)
