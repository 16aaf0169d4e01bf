"""Licences of published weights: what they allow, what must travel with a copy, and which model is under which."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Licence:
    """The terms of one set of weights, as a publisher or a server must know them."""

    id: str  # as written in metadata
    name: str
    url: str
    commercial: bool
    network_service: str  # "allowed", "forbidden", "with-source-offer": serving strangers over a network
    files: tuple[str, ...]  # that must accompany a copy
    inherits: tuple[str, ...] = ()  # ids of licences that bind as well
    notice: str = ""  # a sentence that must stand in a NOTICE file


@dataclass(frozen=True)
class Published:
    """A set of weights that can be downloaded: what it is and whose terms it is under."""

    id: str
    license: str
    what: str
    base: str = ""


LICENCES = {
    licence.id: licence
    for licence in (
        Licence(
            id="stability-nc-research",
            name="Stability AI Non-Commercial Research Community License",
            url="https://huggingface.co/stabilityai/stable-cascade/blob/main/LICENSE",
            commercial=False,
            network_service="forbidden",
            files=("LICENSE", "NOTICE"),
            notice="This Stability AI Model is licensed under the Stability AI Non-Commercial Research Community License, "
            "Copyright (c) Stability AI Ltd. All Rights Reserved.",
        ),
        Licence(
            id="faipl-1.0-sd",
            name="Fair AI Public License 1.0-SD",
            url="https://freedevproject.org/faipl-1.0-sd/",
            commercial=False,  # by what it inherits
            network_service="forbidden",  # by what it inherits; by itself it asks for an offer of the source
            files=("LICENSE", "LICENSE_INHERIT", "NOTICE"),
            inherits=("stability-nc-research",),
        ),
        Licence(
            id="apache-2.0",
            name="Apache License 2.0",
            url="https://www.apache.org/licenses/LICENSE-2.0",
            commercial=True,
            network_service="allowed",
            files=("LICENSE", "NOTICE"),
        ),
    )
}

PUBLISHED = (
    Published("Disty0/sotediffusion-wuerstchen3-decoder", "faipl-1.0-sd", "SoteDiffusion, decoder; brings its prior",
              "stabilityai/stable-cascade"),
    Published("Disty0/sotediffusion-wuerstchen3", "faipl-1.0-sd", "SoteDiffusion, prior", "stabilityai/stable-cascade-prior"),
    Published("Disty0/sotediffusion-v2", "faipl-1.0-sd", "SoteDiffusion v2, decoder; brings its prior",
              "Disty0/sotediffusion-wuerstchen3"),
    Published("Disty0/sotediffusion-v2-prior", "faipl-1.0-sd", "SoteDiffusion v2, prior", "Disty0/sotediffusion-wuerstchen3"),
    Published("stabilityai/stable-cascade", "stability-nc-research", "Stable Cascade, decoder and the original files"),
    Published("stabilityai/stable-cascade-prior", "stability-nc-research", "Stable Cascade, prior"),
)  # fmt: skip


def of_model(name: str) -> str:
    """The licence id of a model by its repository id or file name; "" where it is not known."""
    lowered = name.lower()
    for published in PUBLISHED:
        if lowered == published.id.lower():
            return published.license
    if "sotediffusion" in lowered:
        return "faipl-1.0-sd"
    return "stability-nc-research" if re.search(r"stable.?cascade|^stage_[abc]", lowered) else ""


def from_readme(front_matter: Mapping[str, Any]) -> str:
    """The licence id in a model card's front matter; "" where it says none."""
    value = front_matter.get("license_name") if front_matter.get("license") == "other" else front_matter.get("license")
    if isinstance(value, list):
        value = value[0] if value else ""
    return {"stable-cascade-nc-community": "stability-nc-research"}.get(str(value or ""), str(value or ""))


def notice(id: str, name: str) -> str:
    """The text of the NOTICE file that the terms of a licence ask for; "" where they ask for none."""
    bound = [LICENCES[each] for each in (id, *LICENCES[id].inherits)] if id in LICENCES else []
    sentences = [licence.notice for licence in bound if licence.notice]
    if not sentences:
        return ""
    terms = [f"{licence.name}: {licence.url}" for licence in bound]
    rest = f"Copies must be accompanied by {', '.join(bound[0].files)}."
    changed = "Modified: the weights were written in another file format by sotediffusion."
    return "\n".join([name or "Stable Cascade", *terms, *sentences, rest, changed]) + "\n"


def describe(id: str) -> str:
    """One line on a licence, with what it inherits."""
    if id not in LICENCES:
        return id or "unknown"
    licence = LICENCES[id]
    inherited = "".join(f"; inherits the {LICENCES[other].name}" for other in licence.inherits)
    use = "commercial use allowed" if licence.commercial else "non-commercial"
    service = {"forbidden": ", no hosted service", "with-source-offer": ", hosted with an offer of the source"}
    return f"{licence.name} ({use}{service.get(licence.network_service, '')}{inherited})"
