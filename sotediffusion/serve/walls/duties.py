"""What licences ask of who serves a model: their texts, the way to its source, and no public service where they forbid it."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sotediffusion import __version__
from sotediffusion.serve.menu import Menu, Offer
from sotediffusion.types import UserError
from sotediffusion.weights.licences import LICENCES, PUBLISHED, Licence, describe

HUB = "https://huggingface.co/"
LINKS = '</license>; rel="license", </source>; rel="source"'
_OWN = "The program is SoteDiffusion {version}, Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0"


@dataclass(frozen=True)
class Duties:
    """The duties of one server for the models it offers; `source` is where theirs can be had, where the operator says so."""

    menu: Menu
    source: str = ""

    def __post_init__(self) -> None:
        if self.source and (urlsplit(self.source).scheme not in ("https", "http") or not urlsplit(self.source).netloc):
            raise UserError("source", f"{self.source[:80]!r} is no address; give https://host/path")

    @property
    def named(self) -> str:
        """The licences of all models in a line."""
        return "; ".join(dict.fromkeys(describe(offer.license) for offer in self.menu.models.values()))

    def licence_of(self, offer: Offer) -> tuple[str, str]:
        """Name and address of a model's licence."""
        known = LICENCES.get(offer.license)
        return (known.name, known.url) if known else (offer.license or "unknown", "")

    def source_of(self, offer: Offer) -> str:
        """Where a model can be had; "" where nobody has said so."""
        if self.source:
            return self.source
        published = next((each for each in PUBLISHED if each.id.lower() == offer.name.lower()), None)
        return f"{HUB}{published.id}" if published else ""

    def check_public(self, acknowledged: bool) -> list[str]:
        """Whether these models may be offered to others than the operator; what the log must say of it.

        UserError: a licence forbids that, or is not known, and the operator has not said that it is in order; or a model that was
        made from another is offered without its source.
        """
        notes = []
        for offer in self.menu.models.values():
            bound = _all_terms(offer)
            if not bound or any(licence.network_service == "forbidden" for licence in bound):
                why = f"the licence of {offer.name} ({describe(offer.license)}) {'forbids' if bound else 'may forbid'} it"
                if not acknowledged:
                    raise UserError("public-licence-acknowledged", f"others can reach this address and {why}; serve on this "
                                    "machine only, or give this option where you have the right")  # fmt: skip
                notes.append(f"{why} to serve {offer.name} to others; the operator has acknowledged that")
            if offer.base and not self.source_of(offer):
                raise UserError("source", f"{offer.name} was made from {offer.base}, and others who use it must get its source; "
                                          "give its address")  # fmt: skip
        return notes

    def texts(self) -> str:
        """All licence texts that lie beside the models, and the addresses of the rest."""
        parts = [_OWN.format(version=__version__)]
        for offer in self.menu.models.values():
            bound = _all_terms(offer)
            notices = [licence.notice for licence in bound if licence.notice]
            terms = [f"{licence.name}: {licence.url}" for licence in bound] or ["Its licence is not known."]
            files = [f"--- {Path(path).name}\n{_text(Path(path))}" for path in offer.licence_files]
            parts.append("\n".join([f"The model {offer.name}: {describe(offer.license)}", *terms, *notices, *files]))
        return "\n\n".join(parts) + "\n"

    def sources(self) -> str:
        """Where the models and the program can be had, with what they were made from and the hashes of what is served."""
        parts = [f"The program: the Python package sotediffusion {__version__}."]
        for offer in self.menu.models.values():
            lines = [f"The model {offer.name}: {self.source_of(offer) or 'ask the operator of this server'}"]
            lines += [f"  made from {offer.base}"] * bool(offer.base)
            lines += [f"  {part} sha256 {hash}" for part, hash in sorted(offer.hashes.items())]
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"


def _all_terms(offer: Offer) -> list[Licence]:
    """A model's licence and those that it inherits."""
    own = LICENCES.get(offer.license)
    return [own, *(LICENCES[id] for id in own.inherits)] if own else []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "(cannot be read)"
