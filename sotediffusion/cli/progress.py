"""What is seen of long work while it goes on: bars, a line of numbers, a small preview in a file."""

from pathlib import Path
from typing import Any

import click

from sotediffusion.types import Event, UserError


class Progress:
    """One bar per stage, named after it, on the terminal and nowhere else; previews go into the file `preview`."""

    def __init__(self, label: str, preview: "Preview | None"):
        from tqdm import tqdm

        self._bar = tqdm(desc=label, disable=None, leave=False, unit="step")
        self._label = label
        self._stage = ""
        self._preview = preview

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, event: Event) -> None:
        if event.stage != self._stage:
            self._stage = event.stage
            self._bar.reset(total=event.steps or None)
            self._bar.set_description(f"{self._label} {event.stage}")
        self._bar.update(event.step - self._bar.n)
        if self._preview is not None and event.preview is not None:
            self._preview.show(event.preview)


class Preview:
    """A picture file that is replaced, whole, by every new look at the picture being drawn."""

    def __init__(self, path: Path):
        from sotediffusion.pictures.files import check_folder, choose_format

        name, self._format = choose_format(str(path), None, "preview")
        self._path = Path(name).expanduser()
        check_folder(self._path, "preview")

    def check(self, cascade: Any) -> None:
        """UserError where the weights cannot show any."""
        if cascade.previewer is None:
            raise UserError("preview", "these weights have no previewer; add previewer.safetensors by --previewer")

    def show(self, picture: Any) -> None:
        """Put another look there."""
        from sotediffusion.pictures.files import encode_picture, write_whole

        write_whole(self._path, encode_picture(picture, self._format), "preview")


class TrainingLine:
    """Prints one line a report: share done, images, speed, loss, time left."""

    def __init__(self, part: str):
        self.part = part

    def __enter__(self) -> Any:
        return self.report

    def __exit__(self, *error: Any) -> None:
        click.echo(err=True)

    def report(self, status: Any) -> None:
        from sotediffusion.train.status import left, span

        rest = span(left(status.seconds, status.progress))
        numbers = " ".join(f"{key} {value:.4g}" for key, value in status.numbers.items() if "logsnr" not in key)
        line = (f"{self.part} {status.progress:6.1%} {status.images} images {status.speed:.1f}/s "
                f"loss {status.loss:.4f} lr {status.lr:.2g} {rest} left {numbers}")
        click.echo(f"\r{line}\033[K", nl=False, err=True)
