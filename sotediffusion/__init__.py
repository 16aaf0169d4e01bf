"""SoteDiffusion: from a folder of anime pictures to a served Stable Cascade model."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "StableCascadeCombinedPipeline": "sotediffusion.pipelines",
    "StableCascadePriorPipeline": "sotediffusion.pipelines",
    "StableCascadeDecoderPipeline": "sotediffusion.pipelines",
    "open_cascade": "sotediffusion.weights.store",
    "Request": "sotediffusion.types",
    "UserError": "sotediffusion.types",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Public names load their rooms when first asked for, so that importing the package costs no torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
