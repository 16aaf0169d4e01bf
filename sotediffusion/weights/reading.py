"""From files to a `Bundle`: every layout of files and folders in which people have these weights."""

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import build
from ..diffusion.prediction import PREDICTIONS
from ..models.cascade import Conventions
from ..models.stage_b import LAYOUTS
from ..names import unknown
from ..types import UserError
from . import configs, formats, licences
from .bundle import WHERE, Bundle, Choice, Part, Parts, known_of, licence_files_in, tokenizer_in
from .cache import locate
from .components import INDEX, LITE, SHARD, WEIGHT_STEMS, sized, variant_of
from .tensors import TensorFile, open_file, open_index, open_pickle

MODEL_FILE, INDEX_FILE = "model.toml", "model_index.json"
TEXT_SIBLINGS = {"kohya": "_text_model", "onetrainer": "_text_encoder"}  # beside <name>.safetensors
COMBINED = {
    "stage_c": "prior_prior", "text": "prior_text_encoder", "image": "prior_image_encoder", "stage_b": "decoder",
    "stage_a": "vqgan",
}  # fmt: skip
PRIOR = {"stage_c": "prior", "text": "text_encoder", "image": "image_encoder"}
STAGES = ("stage_c", "stage_b")  # of which there are lite ones
DECODER = {"stage_b": "decoder", "stage_a": "vqgan"}
SPARE = {"text": "text_encoder"}  # of a decoder's own, for where the prior is not
EXTRAS = {"effnet": "effnet_encoder.safetensors", "previewer": "previewer.safetensors"}  # beside diffusers' folders
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
PICKLE_ADVICE = "`sote weights convert --unsafe-pickle`"
SCAN_DEPTH = 2  # folders below the given one that are looked into for loose files

Where = str | Path | Parts | Mapping[str, str | Path]

RAW_TIME = ("diffusers", "diffusers-connected", "onetrainer")  # programs that hand the network t itself


def read(where: Where, unsafe_pickle: bool = False, choice: Choice = Choice()) -> Bundle:
    """Opens what is chosen of whatever is there, without loading a tensor. UserError: nothing there, or nothing of ours."""
    if isinstance(where, Mapping):
        where = Parts.from_table(where, Path(), "parts")
    try:
        bundle = _named_parts(where, choice) if isinstance(where, Parts) else _at(locate(where), choice, unsafe_pickle)
    except OSError as error:
        raise UserError("model", f"{str(error.filename or where)[:200]} cannot be read ({error.strerror or error}); "
                                 "allow reading it, or give another") from None
    if not bundle.parts:
        raise UserError("model", f"{str(where)[:200]} holds no network; download it again, or give another")
    parts = {name: part for name, part in bundle.parts.items() if name in choice.parts}
    if choice.variant and not any(variant_of(Path(part.source).name) == choice.variant for part in parts.values()):
        raise UserError("variant", f"{choice.variant!r} is in the name of no file here, as in model.{choice.variant}.safetensors;"
                                   " leave it out, files are cast to the dtype asked for")
    full = [name for name in STAGES if name in parts and not Path(parts[name].source).parent.name.endswith(LITE)]
    if choice.lite and full:
        raise UserError("lite", f"{parts[full[0]].source} is not in a folder like prior{LITE}/, and none is beside it; leave it "
                                f"out, or get {full[0]} with `sote weights download ID --lite`")
    return replace(bundle, parts=parts)


def _at(path: Path, choice: Choice, unsafe_pickle: bool = False) -> Bundle:
    if unsafe_pickle and path.suffix in PICKLES and path.is_file():
        return _from_files([open_pickle(path)], "pickle", path.stem, None)
    if path.is_file():
        if path.name == MODEL_FILE:
            return _model_folder(path.parent)
        return _named_parts(_parts_file(path), choice) if path.suffix == ".toml" else _one_file(path)
    if (path / MODEL_FILE).is_file():
        return _model_folder(path)
    if (path / INDEX_FILE).is_file():
        return _diffusers(path, choice)
    return _loose_folder(path)


# Our model folder


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"is not readable TOML ({error}); mend it or take another") from None


def _parts_file(path: Path) -> Parts:
    return Parts.from_table(_toml(path), path.parent, str(path))


def _model_folder(folder: Path) -> Bundle:
    source = str(folder / MODEL_FILE)
    table = _toml(folder / MODEL_FILE)
    parts = {}
    for name in WHERE:
        if not isinstance(table.get(name), dict):
            continue
        config: Any = build(configs.CONFIGS[name], table[name].get("config", {}), f"{source} {name}.config")
        file = folder / Path(table[name].get("file", f"{name}.safetensors")).name
        tensors = _part(open_file(file), name).tensors
        parts[name] = Part(name, tensors, str(file), config, table[name].get("hash", ""))
    conventions = _conventions(table.get("conventions", {}), f"{source} conventions")
    return Bundle("folder", parts, table.get("name", folder.name), table.get("license", ""), table.get("base", ""),
                  conventions, tokenizer_in(folder), licence_files_in(folder))


# Loose files


def _parts_of(file: TensorFile) -> dict[str, Part]:
    known = known_of(file.metadata)["parts"]
    parts = {}
    for name, tensors in formats.parts_in(file.tensors, str(file.path)).items():
        config, entry = _config_beside(file.path, name), known.get(name, {})
        if config is None and "config" in entry:
            config = build(configs.CONFIGS[name], entry["config"], f"{file.path} {name}.config")
        parts[name] = Part(name, tensors, str(file.path), config, entry.get("hash", ""))
    return parts


def _part(file: TensorFile, name: str) -> Part:
    """The one part that a file is meant to hold. UserError: it holds another."""
    parts = _parts_of(file)
    if name not in parts:
        raise UserError(name, f"{file.path} holds {', '.join(parts)} instead; give {WHERE[name][1]}")
    return parts[name]


def _config_beside(file: Path, part: str) -> Any:
    path = file.parent / "config.json"
    if part in ("effnet", "previewer") or not path.is_file() or not file.name.startswith(WEIGHT_STEMS):
        return None
    return configs.from_config_json(part, path.read_bytes(), str(path))


def _open(path: Path) -> TensorFile:
    if path.suffix in PICKLES:
        raise UserError(str(path), f"may be a pickle, which can run code; {PICKLE_ADVICE} reads one you trust")
    return open_index(path) if path.suffix == ".json" else open_file(path)


def _one_file(path: Path) -> Bundle:
    file = _open(path)
    opened, layout = [file], _style(file)
    for name, ending in TEXT_SIBLINGS.items():
        sibling = path.with_name(f"{path.stem}{ending}.safetensors")
        if sibling.is_file():
            opened.append(open_file(sibling))
            layout = name
    return _from_files(opened, layout, _name_of(path), tokenizer_in(path.parent))


def _style(file: TensorFile) -> str:
    style = formats.style_of(file.tensors)
    return "stability" if style == "original" else style


def _loose_folder(folder: Path) -> Bundle:
    opened, skipped = [], []
    for path in _weight_files(folder):
        file = _open(path)
        try:
            formats.parts_in(file.tensors, str(path))
            opened.append(file)
        except UserError:
            skipped.append(str(path.relative_to(folder)))
    if not opened:
        pickles = [path.name for path in sorted(folder.rglob("*")) if path.suffix in PICKLES]
        hint = f"{pickles[0]} may be a pickle: see {PICKLE_ADVICE}" if pickles else "give the folder of a model"
        raise UserError("model", f"{folder} holds no safetensors file of a Stable Cascade; {hint}")
    places = (folder, folder / "tokenizer", folder / "text_encoder")
    tokenizer = next((place for place in places if tokenizer_in(place)), None)
    bundle = _from_files(opened, _folder_layout(opened), _name_of(folder), tokenizer)
    bundle.skipped, bundle.licence_files = skipped, licence_files_in(folder)
    bundle.license = bundle.license or licences.from_readme(front_matter(folder))
    return bundle


def _weight_files(folder: Path) -> list[Path]:
    """Safetensors files in a folder and a little below it; the index stands for its shards."""
    files = [path for depth in range(SCAN_DEPTH + 1) for path in sorted(folder.glob("*/" * depth + "*.safetensors"))]
    indices = [path for depth in range(SCAN_DEPTH + 1) for path in sorted(folder.glob("*/" * depth + "*.safetensors.index.json"))]
    return indices + [path for path in files if not SHARD.fullmatch(path.name)]


def _folder_layout(opened: Iterable[TensorFile]) -> str:
    names = {file.path.stem for file in opened}
    for layout, ending in TEXT_SIBLINGS.items():
        if any(f"{name}{ending}" in names for name in names):
            return layout
    if {"unet", "clip"} <= names:
        return "loose"
    styles = {_style(file) for file in opened}
    if "comfyui" in styles:
        return "comfyui"
    return "comfyui-split" if any(file.path.parent.name == "vae" for file in opened) else styles.pop()


def _from_files(opened: list[TensorFile], layout: str, name: str, tokenizer: Path | None) -> Bundle:
    parts: dict[str, Part] = {}
    about: dict[str, Any] = {}
    for file in opened:
        about = {**known_of(file.metadata)["model"], **about}
        about.setdefault("license", file.metadata.get("modelspec.license", ""))
    for held in _without_spare_text([_parts_of(file) for file in opened]):
        for part_name, part in held.items():
            if part_name in parts:
                both = f"{parts[part_name].source} and in {part.source}"
                raise UserError(part_name, f"is in {both}; name one with {WHERE[part_name][0]}")
            parts[part_name] = part
    return _described(Bundle(layout, parts, name, tokenizer=tokenizer), about)


def _without_spare_text(held: list[dict[str, Part]]) -> list[dict[str, Part]]:
    """Published Stage B checkpoints carry a text encoder too; where the prior brings its own, that one serves both stages."""
    if sum("text" in parts for parts in held) < 2:
        return held
    return [{name: part for name, part in parts.items() if name != "text" or "stage_b" not in parts} for parts in held]


def _described(bundle: Bundle, about: Mapping[str, Any]) -> Bundle:
    """Name, licence and conventions: as our own writer left them, else what is known of the kind of file."""
    bundle.name = about.get("name") or bundle.name
    bundle.base = about.get("base", "")
    bundle.license = about.get("license") or licences.of_model(bundle.name)
    if "conventions" in about:
        bundle.conventions = _conventions(about["conventions"], f"{bundle.name} conventions")
    else:
        bundle.conventions = _usual_conventions(bundle.format, bundle.name)
    return bundle


def _conventions(table: Mapping[str, Any], where: str) -> Conventions:
    conventions = build(Conventions, table, where)
    for name, known in (("prediction_c", PREDICTIONS), ("prediction_b", PREDICTIONS), ("prior_layout", LAYOUTS)):
        if getattr(conventions, name) not in known:
            raise unknown(f"{where}.{name}", getattr(conventions, name), known)
    return conventions


def _usual_conventions(layout: str, name: str) -> Conventions:
    mask = "sote" if "sote" in name.lower() else "unmasked" if layout == "kohya" else "masked"
    return Conventions(text_mask=mask, time_condition="raw" if layout in RAW_TIME else "clamped")


# Parts named one by one


def _named_parts(paths: Parts, choice: Choice) -> Bundle:
    """What is named, then what the named files bring along (a text encoder, say), then the base's, and its terms at last."""
    base = _at(locate(paths.base), choice) if paths.base is not None else Bundle("parts", {})
    named = {name: _source(Path(path), name, choice) for name in WHERE if (path := getattr(paths, name)) is not None}
    if not named and not base.parts:
        raise UserError("model", f"no part is named; name them with {', '.join(flag for flag, _ in WHERE.values())}")
    along = {name: part for source in reversed(named.values()) for name, part in source.parts.items()}  # the prior's win
    parts = {**base.parts, **along, **{name: source.parts[name] for name, source in named.items()}}
    leader = named.get("stage_c") or (base if base.parts else next(iter(named.values())))
    tokenizer = _tokenizer_at(Path(paths.tokenizer)) if paths.tokenizer is not None else leader.tokenizer or base.tokenizer
    terms = {name: getattr(leader, name) or getattr(base, name) for name in ("license", "base", "licence_files")}
    return replace(leader, format="parts", parts=parts, tokenizer=tokenizer, **terms)


def _source(path: Path, part: str, choice: Choice) -> Bundle:
    """What lies at the path given for a part. UserError: not there, or another part."""
    if not os.path.exists(path):
        raise UserError(part, f"{str(path)[:200]} does not exist; {WHERE[part][0]} takes {WHERE[part][1]}")
    bundle = _one_file(_component(path, part, choice).path if path.is_dir() else path)
    if part not in bundle.parts:
        raise UserError(part, f"{path} holds {', '.join(bundle.parts)} instead; give {WHERE[part][1]}")
    return bundle


def _tokenizer_at(path: Path) -> Path:
    found = tokenizer_in(path if path.is_dir() else path.parent)
    if found is None:
        raise UserError("tokenizer", f"{path} holds no tokenizer.json or vocab.json; give a tokenizer folder, or none for CLIP's")
    return found


# diffusers


def _component(folder: Path, part: str, choice: Choice) -> TensorFile:
    """The weights in a component's folder: whole or in shards, of the variant chosen, else the plain file, else the only one."""
    files = _weight_files_of(folder)
    if not files:
        pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES] if folder.is_dir() else []
        hint = f"there is only {pickles[0]}, see {PICKLE_ADVICE}" if pickles else f"get {WHERE[part][1]}"
        raise UserError(part, f"{folder} holds no safetensors; {hint}")
    ours = [path for path in files if path.name.startswith(WEIGHT_STEMS)]
    copies = [[path for path in ours if variant_of(path.name) == variant] for variant in (choice.variant, "")]
    if not any(copies) and len(files) > 1:
        raise UserError(part, f"{folder} holds {', '.join(path.name for path in files)}; name one with {WHERE[part][0]}")
    return _open((copies[0] or copies[1] or files)[0])


def _weight_files_of(folder: Path) -> list[Path]:
    indices = [path for path in sorted(folder.glob("*.json")) if INDEX.fullmatch(path.name)]
    return indices + [path for path in sorted(folder.glob("*.safetensors")) if not SHARD.fullmatch(path.name)]


def _diffusers(folder: Path, choice: Choice) -> Bundle:
    if (folder / COMBINED["stage_c"]).is_dir():
        return _from_components("diffusers", (folder, folder), COMBINED, "prior_tokenizer", choice)
    folders = _folders_in(folder)
    is_prior, is_decoder = (sized(place, folders, choice.lite) in folders for place in (PRIOR["stage_c"], DECODER["stage_b"]))
    if not is_prior and not is_decoder:
        raise UserError("model", f"{folder} holds neither prior/ nor decoder/; give the folder of a Stable Cascade")
    if is_decoder and "stage_c" not in choice.parts and _weight_files_of(folder / SPARE["text"]):
        return _from_components("diffusers-connected", (folder, folder), DECODER | SPARE, "tokenizer", choice)
    prior = folder if is_prior else _connected(folder, "prior")
    first = _from_components("diffusers-connected", (prior, folder), PRIOR, "tokenizer", choice)
    if "stage_b" not in choice.parts:
        return first
    decoder = folder if is_decoder else _connected(folder, "decoder")
    second = _from_components("diffusers-connected", (decoder, folder), DECODER, "tokenizer", choice)
    first.parts.update({name: part for name, part in second.parts.items() if name not in first.parts})
    first.license = first.license or second.license
    first.licence_files = first.licence_files or second.licence_files
    return first


def _from_components(
    layout: str, folders: tuple[Path, Path], places: Mapping[str, str], tokenizer: str, choice: Choice
) -> Bundle:
    """What lies in the first folder, under the name of the second."""
    folder, named = folders
    there = _folders_in(folder)
    held = {part: sized(place, there, choice.lite) for part, place in places.items() if part in choice.parts}
    files = {part: _component(folder / place, part, choice) for part, place in held.items() if place in there}
    extras = {part: folder / name for part, name in EXTRAS.items() if part in choice.parts}
    files |= {part: open_file(path) for part, path in extras.items() if path.is_file()}
    parts = {part: _part(file, part) for part, file in files.items()}
    about: dict[str, Any] = next((known for file in files.values() if (known := known_of(file.metadata)["model"])), {})
    if "license" not in about:
        about = {**about, "license": licences.from_readme(front_matter(folder))}
    bundle = Bundle(layout, parts, _name_of(named), tokenizer=tokenizer_in(folder / tokenizer))
    bundle.licence_files = licence_files_in(folder)
    return _described(bundle, about)


def _folders_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def _connected(folder: Path, role: str) -> Path:
    """The repository that goes with this one: beside it, or in the same download cache. UserError: not there."""
    for name in connected_ids(folder, role):
        for place in [folder.parent / name.split("/")[-1], *_snapshots(folder, name)]:
            if (place / INDEX_FILE).is_file():
                return place
        raise UserError(role, f"{folder} goes with {name}, which is not here; run `sote weights download {name}`")
    raise UserError(role, f"the README of {folder} names no {role} repository; name the parts one by one")


def connected_ids(folder: Path, role: str) -> list[str]:
    """The repositories that a README names as this one's `prior` or `decoder`."""
    names = front_matter(folder).get(role) or []
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _snapshots(folder: Path, name: str) -> list[Path]:
    """Where another repository lies in the download cache that this one is in, the newest first."""
    if folder.parent.name != "snapshots":
        return []
    snapshots = folder.parents[2] / ("models--" + name.replace("/", "--")) / "snapshots"
    return sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)


def front_matter(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a repository's README, {} where there is none."""
    from huggingface_hub import metadata_load  # costs a third of a second, and few models need it

    readme = folder / "README.md"
    try:
        return (metadata_load(readme) or {}) if readme.is_file() else {}
    except Exception:  # whatever the YAML library raises: a card is no reason to stop
        return {}


def _name_of(path: Path) -> str:
    """The model's name: the repository's in a download cache, else the file's or folder's."""
    if path.parent.name == "snapshots":
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    if path.is_dir():
        return path.resolve().name
    if path.name.startswith(WEIGHT_STEMS):
        return path.parent.name
    return path.name.removesuffix(".index.json").removesuffix(".safetensors")

