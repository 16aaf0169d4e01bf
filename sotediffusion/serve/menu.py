"""What a server offers: its models with what callers must know of them, and the names of samplers and schedules.

Reading that needs torch, which whoever serves clients does not load: `ask` has it done in a process of its own.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sotediffusion.config import build
from sotediffusion.names import unknown
from sotediffusion.types import UserError

_CODE = "from sotediffusion.serve.menu import tell; tell()"


@dataclass(frozen=True)
class Offer:
    """A model as callers see it."""

    name: str
    place: str  # where its weights lie; not for callers
    license: str = ""
    base: str = ""  # what it was made from
    width: int = 1024  # px, the size drawn when none is asked for
    height: int = 1024
    compression: float = 42.67  # px per Stage C cell
    text_mask: str = "masked"
    init: bool = False  # it can start from a picture
    previews: bool = False
    tokenizer: str | None = None  # a folder; None: CLIP's
    licence_files: tuple[str, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Menu:
    """All that may be asked for by name. The first model is the one drawn with where none is named."""

    models: dict[str, Offer]
    samplers: tuple[str, ...]
    schedules: tuple[str, ...]
    lora_folder: str = ""
    device: str = "cpu"  # the best one of this machine

    @property
    def default(self) -> str:
        return next(iter(self.models))

    @property
    def loras(self) -> dict[str, str]:
        """The LoRA files by name as they lie there now, so that a new one needs no restart."""
        return loras_in(self.lora_folder)

    def offer(self, name: str | None) -> Offer:
        """The model of this name, or the default. UserError: no such model."""
        name = self.default if name is None else name
        if name not in self.models:
            raise unknown("model", name, self.models)
        return self.models[name]


def describe(places: Sequence[str]) -> Menu:
    """Look at the files of models, headers only. UserError: nothing there, or a part that drawing needs is missing."""
    import torch

    from sotediffusion.diffusion.samplers import SAMPLERS
    from sotediffusion.diffusion.schedule import SCHEDULES

    models: dict[str, Offer] = {}
    for place in places:
        offer = _offer(place)
        if offer.name in models:
            raise UserError("model", f"{place} and {models[offer.name].place} are both called {offer.name!r}; give one of them")
        models[offer.name] = offer
    return Menu(models, tuple(SAMPLERS), tuple(SCHEDULES), device="cuda" if torch.cuda.is_available() else "cpu")


def _offer(place: str) -> Offer:
    from sotediffusion.weights.cache import locate
    from sotediffusion.weights.reading import read

    path = locate(place)
    bundle = read(path)
    bundle.require()
    own = bundle.conventions
    return Offer(
        bundle.name or path.stem, str(path), bundle.license, bundle.base, own.width, own.height, own.compression, own.text_mask,
        "effnet" in bundle.parts, "previewer" in bundle.parts, str(bundle.tokenizer) if bundle.tokenizer else None,
        tuple(map(str, bundle.licence_files)), {name: part.hash for name, part in bundle.parts.items() if part.hash},
    )  # fmt: skip


def tell() -> None:
    """In a process of its own: places as JSON in, the menu or what is wrong out."""
    try:
        said = {"menu": asdict(describe(json.load(sys.stdin)))}
    except UserError as error:
        said = {"error": {"field": error.field, "message": error.message}}
    json.dump(said, sys.stdout)


def ask(places: Sequence[str]) -> Menu:
    """As `describe`, without loading torch here."""
    asked = [sys.executable, "-c", _CODE]
    done = subprocess.run(asked, input=json.dumps(list(places)), stdout=subprocess.PIPE, text=True, check=True)
    said = json.loads(done.stdout)
    if "error" in said:
        raise UserError(said["error"]["field"], said["error"]["message"])
    return build(Menu, said["menu"])


def loras_in(folder: str) -> dict[str, str]:
    """The LoRA files of a folder by name, the file's without its ending; nothing where there is no such folder, or none is given.

    A name is looked up among these and never becomes a path, so that nothing outside of the folder can be asked for.
    """
    found = sorted(Path(folder).glob("*.safetensors")) if folder else []
    return {path.stem: str(path) for path in found if path.is_file()}
