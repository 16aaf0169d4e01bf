"""A run of the small steps over a folder, as a function and as a program that tests can kill."""

import json
import sys
from collections import Counter
from pathlib import Path

from curate_steps import Folder, LatePolicy, Length, Policy, Read, Say, See, Twins

from sotediffusion.curate import catalogue
from sotediffusion.curate.engine.columns import Finished
from sotediffusion.curate.engine.local import Local
from sotediffusion.curate.engine.lock import only_writer
from sotediffusion.curate.engine.processes import Means
from sotediffusion.curate.engine.runner import Runner
from sotediffusion.curate.engine.store import Store

SECRET = b"k" * 32


def steps_of(place, least=10, extra=()):
    log, source = place / "log", Folder(place / "src")
    return [Read(log, source), Policy(log), Length(log, least=least), Twins(log), See(log), *extra, LatePolicy(log), Say(log)]


def curate(place, out=None, steps=None, workers=1, memory=0, name=None, executor=None, report=lambda _: None):
    """Run and commit; the runner, and the version or None."""
    source, store = Folder(place / "src"), Store(out or place / "cat")
    with only_writer(store), executor or Local(Means(store, source, workers, memory)) as pool:
        runner = Runner(store, steps or steps_of(place), pool, report)
        ledger = runner.run(source, SECRET)
        return runner, catalogue.commit(Finished(store, runner.chain.placed, runner.parts, ledger), {}, name)


def write(place, texts):
    """Files 000.png, 001.png, ... whose text says what happens to them."""
    (place / "src").mkdir(exist_ok=True, parents=True)
    for number, text in texts.items():
        (place / "src" / f"{number:03d}.png").write_text(text)


def calls(place):
    """How often each step was asked about each picture since the last time this was asked."""
    log = place / "log"
    found = Counter(log.read_text().splitlines() if log.exists() else [])
    log.unlink(missing_ok=True)
    return found


def by_path(place, version=None, out=None):
    return {row["path"]: row for row in catalogue.read(out or place / "cat", version).to_table().to_pylist()}


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent)
    _, version = curate(Path(sys.argv[1]), workers=int(sys.argv[2]))
    sys.stdout.write(json.dumps(version and version.kept))
