"""Small steps for the tests of the engine: each call is one line in a log, so that work done can be counted."""

import hashlib
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sotediffusion.curate.step import LISTING, PictureStep, Step, View, WholeStep


@dataclass
class Folder:
    """A source of little files: their text says what happens to them."""

    root: Path

    def listing(self):
        files = sorted((p.relative_to(self.root).as_posix(), p.stat()) for p in self.root.rglob("*") if p.is_file())
        rows = [{"path": name, "bytes": about.st_size, "modified": about.st_mtime_ns} for name, about in files]
        yield pa.RecordBatch.from_pylist(rows, schema=LISTING)

    def decode(self, path):
        text = (self.root / path).read_text()
        if "bad pixels" in text:
            raise ValueError("unreadable: bad pixels")
        if "kills decode" in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "slow" in text:
            time.sleep(0.05)
        if "goes away" in text:
            (self.root / path).unlink()
            text = (self.root / path).read_text()
        return np.full((4, 4, 3), len(text), np.uint8)


class NeverStarts:
    """A cluster's hand on a node where something is missing."""

    def __init__(self, means):
        raise ImportError("it is not installed here")

    def ready(self):
        return True


class Logged(Step):
    def __init__(self, log, **settings):
        self.log, self.settings = Path(log), settings

    def identity(self):
        return self.settings

    def note(self, rows):
        with open(self.log, "a") as file:
            file.write("".join(f"{self.name} {row}\n" for row in rows))


class Read(Logged):
    """Reads a file: its hash and its text. Kills its process where the text says so."""

    name, version = "scan", 1
    reads = ("path", "bytes")
    writes = pa.schema([("sha256", pa.string()), ("text", pa.string()), ("drop_scan", pa.string())])

    def __init__(self, log, source, **settings):
        super().__init__(log, **settings)
        self.source = source

    def process(self, rows):
        paths = rows.column("path").to_pylist()
        self.note(paths)
        texts = [(self.source.root / path).read_text() for path in paths]
        if any("kills scan" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("once" in text for text in texts) and not (self.log.parent / "killed").exists():
            (self.log.parent / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(sum("slow" in text for text in texts) * 0.05)
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        drops = ["unreadable: it says so" if "unreadable" in text else None for text in texts]
        return pa.record_batch([pa.array(hashes), pa.array(texts), pa.array(drops, pa.string())], schema=self.writes)


class Policy(Logged):
    name, version = "policy", 1
    reads = ("text",)
    writes = pa.schema([("drop_policy", pa.string())])
    erases, sees_dropped = True, True
    word = "forbidden"

    def process(self, rows):
        found = ["policy" if self.word in (text or "") else None for text in rows.column(0).to_pylist()]
        return pa.record_batch([pa.array(found, pa.string())], schema=self.writes)


class LatePolicy(Policy):
    """The same after looking, on what was seen."""

    name = "policy_tags"
    reads = ("seen", "text")
    writes = pa.schema([("drop_policy_tags", pa.string())])
    sees_dropped = False

    def process(self, rows):
        found = ["policy" if "looks wrong" in (text or "") else None for text in rows.column("text").to_pylist()]
        return pa.record_batch([pa.array(found, pa.string())], schema=self.writes)


class Length(Logged):
    """Drops short texts; the bound is a setting."""

    name, version = "filter", 1
    reads = ("path", "text")
    writes = pa.schema([("length", pa.int32()), ("drop_filter", pa.string())])

    def process(self, rows):
        self.note(rows.column("path").to_pylist())
        lengths = [len(text) for text in rows.column("text").to_pylist()]
        drops = [f"too short: {n}" if n < self.settings["least"] else None for n in lengths]
        return pa.record_batch([pa.array(lengths, pa.int32()), pa.array(drops, pa.string())], schema=self.writes)


class Twins(Logged, WholeStep):
    """Drops all but the first of equal texts."""

    name, version = "dedupe", 1
    reads = ("row", "sha256")
    writes = pa.schema([("group", pa.int64()), ("drop_dedupe", pa.string())])
    otherwise = ", or look away"

    def process(self, rows):
        self.note(["all"])
        self.reached(1, len(rows))
        if (self.log.parent / "kill the comparison").exists():
            os.kill(os.getpid(), signal.SIGSEGV)
        first: dict[str, int] = {}
        group, drop = [], []
        for row, key in zip(rows.column("row").to_pylist(), rows.column("sha256").to_pylist(), strict=True):
            keeper = first.setdefault(key, row)
            group.append(keeper)
            drop.append(None if keeper == row else f"same as: {keeper}")
        return pa.record_batch([pa.array(group, pa.int64()), pa.array(drop, pa.string())], schema=Twins.writes)


class Count(Twins):
    """The same, and says how many equal texts were left out for the one that stays."""

    writes = pa.schema([*Twins.writes, ("copies", pa.int64())])

    def process(self, rows):
        said = super().process(rows)
        members = Counter(said.column("group").to_pylist())
        copies = [members[row] - 1 or None if row in members else None for row in rows.column("row").to_pylist()]
        return pa.record_batch([*said.columns, pa.array(copies, pa.int64())], schema=self.writes)


class Praise(Logged):
    """A word for pictures that are there more than once."""

    name, version = "praise", 1
    reads = ("path", "copies")
    writes = pa.schema([("praise", pa.string())])

    def process(self, rows):
        self.note(rows.column("path").to_pylist())
        said = ["liked" if copies else "plain" for copies in rows.column("copies").to_pylist()]
        return pa.record_batch([pa.array(said)], schema=self.writes)


class Repeat(Logged):
    """Knows of copies by hearsay alone."""

    name, version = "repeat", 1
    reads = ("path", "praise")
    writes = pa.schema([("repeated", pa.string())])

    def process(self, rows):
        self.note(rows.column("path").to_pylist())
        return pa.record_batch([rows.column("praise").cast(pa.string())], schema=self.writes)


def small(picture):
    return picture[:2, :2]


class See(Logged, PictureStep):
    """Looks at the pictures."""

    name, version = "see", 1
    reads = ("path",)
    writes = pa.schema([("seen", pa.float32())])
    views = (View("small", (2, 2, 3), "uint8", small),)

    def __init__(self, log, name="see", column="seen", **settings):
        super().__init__(log, **settings)
        self.name = name
        self.writes = pa.schema([(column, pa.float32())])

    def look(self, rows, pictures):
        self.note(rows.column("path").to_pylist())
        if (self.log.parent / "kill the model").exists():
            (self.log.parent / "kill the model").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        means = pictures["small"].reshape(len(rows), -1).mean(axis=1).astype(np.float32)
        return pa.record_batch([pa.array(means)], schema=self.writes)


class Say(Logged):
    """The last word, out of columns of several steps, one of which may be missing."""

    name, version = "compose", 1
    reads = ("text", "seen", "length", "nothing writes this")
    writes = pa.schema([("caption", pa.string())])

    def process(self, rows):
        self.note(rows.column("text").to_pylist())
        said = [f"{row['text']} {row['length']} {row['seen']}" for row in rows.to_pylist()]
        return pa.record_batch([pa.array(said)], schema=self.writes)
