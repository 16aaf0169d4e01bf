"""`sote generate`: from prompts to picture files."""

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from sotediffusion.cli.loras import asked_embeddings, asked_loras, embeddings_like, loras_like
from sotediffusion.cli.main import one_line
from sotediffusion.cli.progress import Preview, Progress
from sotediffusion.config import build, read_toml
from sotediffusion.names import unknown
from sotediffusion.safety.policy import check_request
from sotediffusion.safety.provenance import SOFTWARE
from sotediffusion.types import Picture, Request, UserError

GPU_BATCH = 4  # pictures drawn together
TEMPLATE = "outputs/{date}-{seed}-{prompt}"
PARTS = {"stage_c": "stage_c", "stage_b": "stage_b", "stage_a": "stage_a", "text_encoder": "text", "effnet": "effnet",
         "previewer": "previewer", "tokenizer": "tokenizer"}  # fmt: skip
LORA_CALL = re.compile(r"(<lora:([^<>:]{1,200}):?([^<>]{0,40})>)")
DTYPES = ("float32", "bfloat16", "float16")
FIELDS = {field.name for field in fields(Request)}

SOURCE = (
    click.option("--file", "prompts_file", type=click.Path(path_type=Path), help="Prompts from a file, one a line."),
    click.option("--negative", "-n", help="What to avoid."),
    click.option("--preset", help="Settings to start from: card, civitai or v2."),
    click.option("--like", type=click.Path(path_type=Path), help="Settings to start from: those inside a picture."),
    click.option("--init", "init_file", type=click.Path(path_type=Path), help="A picture to start from instead of noise."),
    click.option("--strength", type=float, help="How much of --init is redrawn, above 0 up to 1.  [0.6]"),
    click.option("--lora", "lora_files", metavar="FILE[:WEIGHT]", multiple=True,
                 help="A LoRA, and how much of it: -4 to 4.  [1] Several may be given; `none` leaves out those of --like."),
    click.option("--embedding", "embedding_files", metavar="FILE", multiple=True,
                 help="A textual inversion; the prompt says `embedding:` and the file's name where it stands."),
)
SETTINGS = (
    click.option("--size", metavar="WxH", help="Pixels, multiples of 8.  [the model's own]"),
    click.option("--steps", type=int, help="Steps of Stage C.  [30]"),
    click.option("--guidance", type=float, help="Guidance of Stage C; 1 and less is off.  [7]"),
    click.option("--decoder-steps", type=int, help="Steps of Stage B.  [10]"),
    click.option("--decoder-guidance", type=float, help="Guidance of Stage B.  [2]"),
    click.option("--sampler", help="ddpm, ddim, euler, euler_ancestral, dpmpp_2m, dpmpp_2m_sde or lcm.  [ddpm]"),
    click.option("--decoder-sampler", help="The same for Stage B.  [ddpm]"),
    click.option("--schedule", help="default, sgm_uniform, karras or exponential.  [default]"),
    click.option("--decoder-schedule", help="The same for Stage B.  [default]"),
    click.option("--shift", type=float, help="Shift of Stage C's schedule.  [1]"),
    click.option("--decoder-shift", type=float, help="Shift of Stage B's schedule.  [1]"),
    click.option("--rescale", type=float, help="Guidance rescale, 0 to 1.  [0]"),
    click.option("--compression", type=float, help="Pixels to a cell of Stage C.  [the model's own]"),
    click.option("--seed", type=int, help="Seed of the first picture; the next ones count on.  [random]"),
    click.option("--count", type=int, help="Pictures of each prompt.  [1]"),
)
MODEL = (
    click.option("--model", help="A folder, a file, a hub ID, ID@REVISION or `miniature`.  [that of --like, else miniature]"),
    click.option("--stage-c", type=click.Path(path_type=Path), help="Stage C from a file of its own; likewise:"),
    *(click.option(f"--{part}", type=click.Path(path_type=Path))
      for part in ("stage-b", "stage-a", "text-encoder", "effnet", "previewer", "tokenizer")),
    click.option("--lite", is_flag=True, help="The smaller networks of a model that has both, as Stability's."),
    click.option("--dtype", type=click.Choice(DTYPES), help="What is computed in.  [float32 on a CPU, else bfloat16]"),
    click.option("--device", help="cpu, cuda, cuda:1, mps.  [cuda where there is one]"),
)  # fmt: skip
OUTPUT = (
    click.option("--out", "-o", default=TEMPLATE, show_default=True, help="{seed} {index} {date} {prompt} are filled in."),
    click.option("--format", "file_format", help="png, webp or jpeg.  [by the suffix of --out, else png]"),
    click.option("--preview", type=click.Path(path_type=Path), help="A small look at the picture, rewritten with every step."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object per picture."),
)


def _with(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command()
@click.argument("prompt", required=False)
@_with(SOURCE)
@_with(SETTINGS)
@_with(MODEL)
@_with(OUTPUT)
def generate(prompt: str | None, prompts_file: Path | None, model: str | None, out: str, file_format: str | None,
             preview: Path | None, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Draw PROMPT, or each line of --file or of the standard input (PROMPT `-`, or none).

    \b
    Examples:
      sote generate "1girl, solo, cat ears, pink hair, smile, indoors" --seed 7
      sote generate --like picture.png --guidance 5 --count 4
      sote generate --file prompts.txt --out "pictures/{index:03}-{seed}.webp"
    """
    from sotediffusion.pictures.files import check_template, choose_format

    template, file_format = choose_format(out, file_format)
    check_template(template)
    shown = None if preview is None else Preview(preview)
    like = _like(options["like"])
    lines = Lines(prompts_file)
    orders = _orders(prompt, lines, like, options)
    cascade = _open(model, options, like)
    _check_lengths(cascade, orders, lines)
    _compare(cascade, like)
    if shown is not None:
        shown.check(cascade)
    _notice(cascade, orders[0])
    tell = _print_json if as_json else _print_line
    taken: set[Path] = set()
    try:
        for picture, seconds in _draw(cascade, orders, shown):
            path = _save(picture, template, file_format, taken)
            tell(path, picture, seconds)
    except KeyboardInterrupt:
        click.echo(f"stopped; {len(taken)} of {len(orders)} pictures are finished and kept", err=True)
        raise SystemExit(130) from None


class Lines:
    """The lines of a file of prompts, or of the standard input, and which of them a fault is in."""

    def __init__(self, file: Path | None):
        self.file = file
        self.numbers: dict[str, int] = {}  # by what a line says

    def read(self) -> list[str]:
        """Those that say something."""
        said = [(number, line.strip()) for number, line in enumerate(_text(self.file).splitlines(), 1) if line.strip()]
        for number, text in said:
            self.numbers.setdefault(text, number)
        return [text for _, text in said]

    @contextmanager
    def told(self, prompt: str) -> Iterator[None]:
        """Say in which line the fault of a prompt is."""
        try:
            yield
        except UserError as error:
            if prompt not in self.numbers:
                raise
            where = f"{error.field}, line {self.numbers[prompt]} of {self.file or 'the standard input'}"
            raise UserError(where, error.message) from None


def _orders(prompt: str | None, lines: Lines, like: dict[str, Any], options: dict[str, Any]) -> list[Request]:
    """One order for each picture, later sources over earlier ones: defaults, --preset, --like, options."""
    taken = FIELDS - {"count", "init", "loras", "embeddings"}
    values = _preset(options["preset"]) | {key: like[key] for key in taken if like.get(key) is not None}
    asked: dict[str, Any] = {key: value for key, value in options.items() if key in FIELDS and value is not None}
    asked["loras"] = asked_loras(options["lora_files"]) or loras_like(like, options["lora_files"])
    asked["embeddings"] = asked_embeddings(options["embedding_files"]) or embeddings_like(like)
    if options["size"] is not None:
        asked |= _size(options["size"])
    if options["init_file"] is not None:
        asked["init"] = _init(options["init_file"])
    elif like.get("software") == SOFTWARE and "strength" in like:
        raise UserError("init", f"{options['like']} was drawn from a picture; give that picture with --init")
    elif options["strength"] is not None:
        raise UserError("strength", "it says how much of a given picture is redrawn; give one with --init, or leave it out")
    prompts = _prompts(prompt, lines, values.get("prompt"))
    requests = [replace(build(Request, values | {"prompt": text}), **asked) for text in prompts]
    from sotediffusion.diffusion.samplers import SAMPLERS
    from sotediffusion.diffusion.schedule import SCHEDULES
    from sotediffusion.limits import validate

    for request in requests:
        with lines.told(request.prompt):
            validate(request, SAMPLERS, SCHEDULES)
            check_request(request.prompt, request.negative, request.guidance, request.decoder_guidance)
    _notice_calls(requests)
    return [order for request in requests for order in _one_by_one(request)]


def _one_by_one(request: Request) -> list[Request]:
    first = secrets.randbelow(2**32) if request.seed is None else request.seed
    return [replace(request, seed=first + place, count=1) for place in range(request.count)]


def _prompts(prompt: str | None, lines: Lines, like: str | None) -> list[str]:
    if prompt is not None and lines.file is not None:
        raise UserError("prompt", "it is given twice, as an argument and by --file; leave one out")
    is_asked = prompt is not None or like is not None or sys.stdin is None or sys.stdin.isatty()
    if lines.file is None and prompt != "-" and is_asked:
        return [prompt if prompt is not None else like or ""]
    prompts = lines.read()
    if not prompts:
        raise UserError("prompt", f"{lines.file or 'the standard input'} holds no line of text; write one prompt a line")
    return prompts


def _notice_calls(requests: list[Request]) -> None:
    """Says what is written as other programs call LoRA and embeddings, and is read as words here."""
    from sotediffusion.text.words import unknown_words

    texts = "\n".join(dict.fromkeys(text for request in requests for text in (request.prompt, request.negative)))
    for call, file, weight in dict.fromkeys(LORA_CALL.findall(texts)):
        _note(f"{call} is read as words; a LoRA is asked for by --lora {file}{f':{weight}' if weight else ''}")
    for name in unknown_words(texts, [Path(file).stem for file in requests[0].embeddings]):
        _note(f"embedding:{name} is read as words; an embedding is asked for by --embedding {name}")


def _check_lengths(cascade: Any, orders: list[Request], lines: Lines) -> None:
    """UserError for a prompt too long for the tokenizer, before minutes go into those in front of it."""
    from sotediffusion.text.prompt import chunk_pair, expand_wildcards

    known: set[tuple[str, str]] = set()
    for order in orders:
        with lines.told(order.prompt):
            seed = order.seed or 0
            pair = expand_wildcards(order.prompt, seed), expand_wildcards(order.negative, seed, "negative")
            if pair not in known:
                chunk_pair(*pair, cascade.tokenizer, cascade.conventions.text_mask)
                known.add(pair)


def _preset(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    folder = files("sotediffusion") / "presets" / "generate"
    known = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if name not in known:
        raise unknown("preset", name, known)
    return read_toml(str(folder / f"{name}.toml"))


def _like(file: Path | None) -> dict[str, Any]:
    """The settings inside a picture."""
    if file is None:
        return {}
    from sotediffusion.pictures.files import read_settings

    settings = read_settings(file, field="like")
    other = settings.get("other")
    if isinstance(other, dict) and other:
        _note(f"not taken over from {file}: {', '.join(sorted(other))[:200]}")
    return settings


def _compare(cascade: Any, like: dict[str, Any]) -> None:
    """Says why the picture may come out another one."""
    hashes = like.get("hashes")
    if isinstance(hashes, dict):
        others = [part for part, hash in cascade.hashes.items() if hashes.get(part, hash) != hash]
        if others:
            told = f"{str(hashes[others[0]])[:10]}, not {cascade.hashes[others[0]][:10]}"
            _note(f"that picture was drawn with another {', '.join(others)} than {cascade.name} has ({told}); it will differ")
    if like.get("pipeline") and like.get("software") == SOFTWARE and like.get("noise") != "cpu float32":
        _note("that picture was drawn from Python with noise that cannot be drawn again here; it will differ")
    if like.get("image_prompts"):
        _note("that picture followed other pictures too (images=), which it does not carry; it will differ")


def _note(text: str) -> None:
    click.echo(f"note: {one_line(text)}", err=True)


def _size(text: str) -> dict[str, int]:
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and len(text) < 20):
        raise UserError("size", f"{text[:40]!r} is not WIDTHxHEIGHT in pixels; write for example 1024x1536")
    return {"width": int(width), "height": int(height)}


def _open(model: str | None, options: dict[str, Any], like: dict[str, Any]) -> Any:
    from sotediffusion.weights.cache import MINIATURE
    from sotediffusion.weights.store import DTYPES, Choice, Parts, open_cascade

    named = {ours: options[part] for part, ours in PARTS.items() if options[part] is not None}
    if model is None and not named:
        model = _model_of(like) or MINIATURE
    device = _device(options["device"])
    usual = "float32" if device == "cpu" else "bfloat16"
    dtype = options["dtype"] or (like["dtype"] if like.get("dtype") in tuple(DTYPES) else usual)
    choice = Choice(lite=options["lite"])
    cascade = open_cascade(Parts(base=model, **named) if named else str(model), dtype, device, choice)
    for note in cascade.notes:
        _note(note)
    return cascade


def _model_of(like: dict[str, Any]) -> str | None:
    """The model here that drew the picture, by the hashes in it or else by its name."""
    from sotediffusion.weights.cache import MINIATURE
    from sotediffusion.weights.known import find_model

    name, hashes = str(like.get("model", "")), like.get("hashes")
    whole = {str(part): str(hash) for part, hash in hashes.items()} if isinstance(hashes, dict) else {}
    found = find_model(name, whole or {"stage_c": str(like.get("model_hash", ""))})
    if found is None and (name or whole):
        _note(f"{name[:80] or 'the model'} that drew that picture is not among the models here; {MINIATURE} is taken, "
              "name another with --model")  # fmt: skip
    return None if found is None else str(found)


def _device(name: str | None) -> str:
    """The device asked for, or the best there is; UserError where torch cannot reach it."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # of a device that only pretends, as meta, nothing can be had
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError("device", f"{name!r} cannot be used here ({reason}); take cpu, or leave it out") from None
    return name


def _notice(cascade: Any, order: Request) -> None:
    from sotediffusion.limits import compression_note, size_note

    own = cascade.conventions
    for note in filter(None, (size_note(order, own.width, own.height, own.area), compression_note(order, own.compression))):
        _note(note)


def _draw(cascade: Any, orders: list[Request], preview: Preview | None) -> Iterator[tuple[Picture, float]]:
    """Each picture as soon as it is finished, with the seconds since the one before."""
    from sotediffusion.generate import draw

    on_cpu = next(cascade.text.parameters()).device.type == "cpu"
    together = 1 if on_cpu else GPU_BATCH  # a CPU gains nothing by more, and stopped it would lose more
    began = time.perf_counter()
    for place in range(0, len(orders), together):
        batch = orders[place : place + together]
        with Progress(f"{place + len(batch)}/{len(orders)}", preview) as progress, _enough_memory():
            for picture in draw(cascade, batch, progress, together, preview is not None):
                seconds, began = time.perf_counter() - began, time.perf_counter()
                yield picture, seconds


@contextmanager
def _enough_memory() -> Iterator[None]:
    """The usual end of a picture too large for the machine, as a sentence."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own error of a full GPU is a RuntimeError, that of a CPU has no name
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise UserError("size", "the memory is not enough for it; take a smaller --size, or --dtype bfloat16") from error


def _save(picture: Picture, template: str, file_format: str, taken: set[Path]) -> Path:
    from sotediffusion.pictures.files import save_by_template

    values = {"seed": picture.seed, "index": len(taken) + 1, "date": date.today().isoformat(),
              "prompt": str(picture.settings.get("prompt", ""))}  # fmt: skip
    path = save_by_template(picture, template, values, file_format, taken)
    taken.add(path)
    return path


def _print_line(path: Path, picture: Picture, seconds: float) -> None:
    click.echo(f"{path}  seed {picture.seed}  {seconds:.1f} s")


def _print_json(path: Path, picture: Picture, seconds: float) -> None:
    line = {"path": os.fspath(path), "seed": picture.seed, "seconds": round(seconds, 3), "settings": picture.settings}
    click.echo(json.dumps(line, ensure_ascii=True))


def _init(path: Path) -> bytes:
    """A picture's file, found readable before minutes go into opening a model."""
    from sotediffusion.pictures.decode import open_picture

    open_picture(path, field="init")
    return path.read_bytes()


def _text(path: Path | None) -> str:
    """A text file, with or without a byte order mark, or the standard input."""
    try:
        return _typed() if path is None else path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        name, reason = path or "the standard input", getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError("file", f"{name} cannot be read ({reason}); give text with one prompt a line") from None


def _typed() -> str:
    """The standard input; nothing where it is closed."""
    return "" if sys.stdin is None else sys.stdin.read().removeprefix("\ufeff")
