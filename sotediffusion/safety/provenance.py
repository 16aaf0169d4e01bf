"""The marks that say where a picture came from: made by AI, by which program, from which weights, under which licence."""

from collections.abc import Mapping
from typing import Any

from sotediffusion import __version__

SOFTWARE = "SoteDiffusion"

# IPTC NewsCodes, "digital source type": created by a model trained on sampled content.
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def stamp(
    settings: Mapping[str, Any], model: str = "", license: str = "", hashes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A copy of `settings` with the marks of provenance; they win over anything of the same name already there.

    `hashes` are sha256 in hex by part of the model. A model, licence or hashes left empty here stay as `settings` has them.
    """
    named = {"model": model, "license": license, "hashes": dict(hashes or {})}
    return {
        **settings,
        **{key: value for key, value in named.items() if value},
        "ai_generated": True,
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "software": SOFTWARE,
        "version": __version__,
    }
