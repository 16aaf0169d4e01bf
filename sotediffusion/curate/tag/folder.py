"""Tagging a plain folder: captions beside the pictures, in kohya's manner or without its faults."""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path

import numpy as np
from PIL import Image

from sotediffusion.curate.inference.views import Array
from sotediffusion.curate.policy import SEEN, refuses
from sotediffusion.curate.tag.kohya import Chosen, Kohya
from sotediffusion.curate.tag.step import Tagger
from sotediffusion.curate.tag.store import TagStore
from sotediffusion.curate.tag.taglist import RATINGS
from sotediffusion.pictures.files import write_whole
from sotediffusion.pictures.headers import DAMAGED
from sotediffusion.types import UserError

WRITTEN, UNCHANGED, REFUSED, FAILED = "written", "unchanged", "refused", "failed"
KNOWN_AT_A_TIME = 256  # pictures whose captions are written together where nothing is left to look at


@dataclass(frozen=True)
class Tagged:
    """What became of one picture. Of a refused one nothing is told, not even its path."""

    what: str
    path: Path | None = None
    chosen: Chosen | None = None
    reason: str = ""


@dataclass(eq=False)
class _Open:
    """A picture on its way: what it looks like, or what is known of it, or why it cannot be read."""

    path: Path
    digest: bytes = b""
    view: Array | None = None
    probabilities: Array | None = None
    refused: bool = False
    reason: str = ""


def find_pictures(folder: Path, manner: Kohya, recursive: bool) -> list[Path]:
    """The pictures of a folder, sorted. UserError where it is no folder."""
    if not folder.is_dir():
        raise UserError("train_data_dir", f"{folder} is not a folder; give the folder of the pictures")
    found = folder.rglob("*") if recursive else folder.glob("*")
    return sorted(path for path in found if manner.is_picture(path.name) and path.is_file())


@dataclass
class FolderTagger:
    """Tags pictures with `tagger` and writes captions in a manner; with a store nothing is looked at twice."""

    tagger: Tagger
    manner: Kohya
    store: TagStore | None = None
    batch: int = 1  # pictures at a time
    workers: int = 1  # threads that decode
    written: dict[Path, Path] = field(default_factory=dict)  # captions of this run, and whose they are

    def run(self, pictures: list[Path]) -> Iterator[Tagged]:
        """Tag and write, in order. A file that cannot be read is told and passed over.

        UserError: a caption that cannot be written; in kohya's manner also one that is not UTF-8, which stops kohya too.
        """
        batch = self.tagger.batch or self.batch
        waiting: list[_Open] = []
        for opened in self._opened(pictures):
            waiting.append(opened)
            if sum(picture.view is not None for picture in waiting) >= batch or len(waiting) >= KNOWN_AT_A_TIME:
                yield from self._finish(waiting)
                waiting = []
        yield from self._finish(waiting)

    def _opened(self, pictures: list[Path]) -> Iterator[_Open]:
        """Pictures decoded ahead, a few per thread, in their order."""
        ahead: deque[Future[_Open]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for path in pictures:
                ahead.append(pool.submit(self._open, path))
                if len(ahead) > 2 * self.workers + self.batch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _open(self, path: Path) -> _Open:
        opened = _Open(path)
        try:
            content = path.read_bytes()
            opened.digest = hashlib.sha256(content).digest()
            if self.store is not None:
                opened.probabilities = self.store.probabilities(opened.digest)
                opened.refused = self.store.refused(opened.digest)
            if opened.probabilities is None and not opened.refused:
                opened.view = self.manner.load(content, self.tagger.size)
        except (*DAMAGED, Image.DecompressionBombError) as error:
            opened.reason = str(error)[:200] or type(error).__name__
        return opened

    def _finish(self, pictures: list[_Open]) -> list[Tagged]:
        looked = [picture for picture in pictures if picture.view is not None]
        if looked:
            views = np.stack([picture.view for picture in looked if picture.view is not None])
            for picture, probabilities in zip(looked, self.tagger.probabilities(views), strict=True):
                picture.probabilities, picture.view = probabilities, None
        done = [self._caption(picture, picture in looked) for picture in pictures]
        if self.store is not None:
            self.store.save()
        return done

    def _caption(self, picture: _Open, is_new: bool) -> Tagged:
        """Write one picture's caption, or say why not."""
        if picture.refused:
            return Tagged(REFUSED)
        if picture.probabilities is None:
            return Tagged(FAILED, picture.path, reason=picture.reason)
        told = self._told(picture.probabilities)
        if refuses(told, path=picture.path.name):
            if self.store is not None:
                self.store.refuse(picture.digest)
            return Tagged(REFUSED)
        if is_new and self.store is not None:
            self.store.keep(picture.digest, picture.probabilities)
        target = self.manner.caption_path(picture.path)
        if self.manner.one_each and self.written.setdefault(target, picture.path) != picture.path:
            return Tagged(FAILED, picture.path, reason=f"{self.written[target].name} has the caption {target.name} already")
        there = target.read_bytes() if target.is_file() else None
        if there and refuses(told, there.decode("utf-8", "replace")):
            return Tagged(REFUSED)
        return self._write(picture, target, there)

    def _write(self, picture: _Open, target: Path, there: bytes | None) -> Tagged:
        assert picture.probabilities is not None
        chosen = self.manner.choose(picture.probabilities)
        try:
            existing = self.manner.read(there) if there and self.manner.flags.append_tags else []
        except UnicodeDecodeError:
            reason = f"its caption {target.name} is not UTF-8"
            if self.manner.one_each:
                return Tagged(FAILED, picture.path, reason=reason)
            raise UserError("append_tags", f"{picture.path}: {reason}; save it as UTF-8 or move it away") from None
        content = self.manner.write(chosen, existing)
        if content != there:
            write_whole(Path(realpath(target)), content)
        return Tagged(UNCHANGED if content == there else WRITTEN, picture.path, chosen)

    def _told(self, probabilities: Array) -> list[str]:
        """All that the tagger says of a picture, for the policy, however high the thresholds are: the rating too."""
        seen = probabilities >= np.float32(SEEN)
        seen[int(probabilities[:RATINGS].argmax())] = True
        return [self.tagger.tags.names[place] for place in np.nonzero(seen)[0]]
