"""What is seen of a run while it goes on: its journal, losses of held-out pictures, pictures drawn, how busy the device is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sotediffusion.models.cascade import PARTS, Cascade
from sotediffusion.train import opening
from sotediffusion.train.distributed import Ranks
from sotediffusion.train.drawings import Drawings
from sotediffusion.train.journal import Journal, check_log, open_journal
from sotediffusion.train.loop import Milestone
from sotediffusion.train.opening import Data, Makers
from sotediffusion.train.order import Ranks as Rows
from sotediffusion.train.plan import load_of
from sotediffusion.train.prompts import read_prompts
from sotediffusion.train.rate import full_speed
from sotediffusion.train.settings import Settings, images_of
from sotediffusion.train.status import Status
from sotediffusion.train.validation import Validation, held_out
from sotediffusion.types import UserError


class Watch:
    """Made of a run's settings once its model and data are there.

    A dry run tries a step's worth of held-out pictures and one drawing, and keeps nothing.
    """

    def __init__(self, settings: Settings, folder: Any, device: str, dry: bool, ranks: Ranks):
        self.settings, self.folder, self.device, self.dry, self.ranks = settings, folder, device, dry, ranks
        self.passing = TemporaryDirectory() if dry else None
        self.requests, self.notes = read_prompts(settings.draw.prompts)
        self.journal: Journal | None = None
        check_log(settings.log)
        for name, every in (("validate.every", settings.validate.every), ("draw.every", settings.draw.every)):
            images_of(name, every, 1, 1)
        for name in ("samples", "readings"):
            if getattr(settings.validate, name) < 1:
                raise UserError(f"validate.{name}", f"{getattr(settings.validate, name)} measures nothing; give 1 or more")

    def check(self, data: Data) -> None:
        """UserError where pictures are to be held out and none is."""
        if self.settings.data.held_out:
            held_out(data, self.settings.data, self.settings.validate.samples)

    def milestones(self, recipe: Any, base: Cascade, data: Data, made: Makers, epoch: int) -> list[Milestone]:
        """Open the journal; what is done with the weights besides saving them. `base` is what pictures are drawn with."""
        found: list[Milestone] = []
        if self.ranks.first and not self.dry:
            self.journal = open_journal(self.folder, self.settings)
        own, settings = self.settings.data, self.settings
        if own.held_out:
            most = min(settings.validate.samples, settings.train.batch) if self.dry else settings.validate.samples
            held, plainly = held_out(data, own, most)
            rows = Rows(self.ranks.number, self.ranks.count, settings.train.micro or None)
            plainly = replace(plainly, online=plainly.online or self.dry)  # a dry run has made no latents
            stream = opening.open_data(held, plainly, made, str(self.folder / "latents"), rows)
            every = images_of("validate.every", settings.validate.every, settings.train.batch, epoch)
            validation = Validation(recipe, stream, every, settings.validate.readings, self.ranks, self._validated)
            found.append(validation.as_trained(min(settings.train.batch, len(stream)), self.device,
                                               settings.precision.compute == "bfloat16", bool(settings.train.ema)))  # fmt: skip
        if self.requests:
            every = images_of("draw.every", settings.draw.every, settings.train.batch, epoch)
            live = recipe if settings.beside else None
            requests, folder = (self.requests[:1], Path(self.passing.name)) if self.passing else (self.requests, self.folder)
            found.append(Drawings(replace(base, name=settings.name), requests, folder, every, (self.device, live),
                                  self.ranks, self._drawn))  # fmt: skip
        return found

    def full_speed(self, base: Cascade, data: Data) -> float:
        """Images a second of devices that do nothing but products."""
        configs = {name: getattr(base.config, name) for name in PARTS}
        return full_speed(self.settings, configs, load_of(data, self.settings).mean, self.device, self.ranks.count)

    def report(self, report: Callable[[Status], None]) -> Callable[[Status], None]:
        """What tells `report` and the journal."""

        def tell(status: Status) -> None:
            report(status)
            if self.journal is not None:
                self.journal.status(status)

        return tell

    def close(self) -> None:
        """No more is coming."""
        if self.journal is not None:
            self.journal.close()
        if self.passing is not None:
            self.passing.cleanup()

    def _validated(self, images: int, numbers: dict[str, float]) -> None:
        if self.journal is not None:
            self.journal.validation(images, numbers)

    def _drawn(self, images: int, tag: str, content: bytes, size: tuple[int, int]) -> None:
        if self.journal is not None:
            self.journal.picture(images, tag, content, size)
