"""The work of curation by separate tools, one after another, each opening every picture for itself.

benchmarks/curate.py compares with it. Each tool is started anew in a process of its own, as from a shell, and may use as many
workers as it is given. The later ones see only what the chain kept, as if somebody had deleted the rest between two tools.
"""

import hashlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BATCH = 16


@dataclass(frozen=True)
class Pile:
    """The folder, all its pictures, those that stayed, and where the models lie."""

    root: Path
    paths: list[Path]
    stayed: list[Path]
    models: Path


Tool = Callable[[Pile, int], None]


def tools(models: bool) -> dict[str, Tool]:
    """The tools in the order somebody would run them."""
    found: dict[str, Tool] = {"sizes, hashes and damage, with Pillow": alone(sizes), "near-duplicates, with czkawka": alone(near)}
    if models:
        found |= {"tags, a loop like kohya's": alone(tags), "aesthetic, a loop in transformers": alone(aesthetic),
                  "quality, a loop in transformers": alone(quality)}  # fmt: skip
    return found


def alone(tool: Tool) -> Tool:
    """The tool in a new process, which pays for its own imports."""

    def run(pile: Pile, workers: int) -> None:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(tool, pile, workers).result()

    return run


def sizes(pile: Pile, workers: int) -> None:
    """The filter by area and the search for damaged files."""
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_look, pile.paths, chunksize=8))


def _look(path: Path) -> tuple[str, tuple[int, int]] | None:
    try:
        with Image.open(path) as image:
            image.load()
            return hashlib.sha256(path.read_bytes()).hexdigest(), image.size
    except (OSError, SyntaxError):
        return None


def near(pile: Pile, workers: int) -> None:
    """czkawka's search as its binding on PyPI offers it; it threads by itself, so `workers` limits its cores."""
    import os

    try:
        from czkawka import ImageSimilarity
    except ImportError:
        raise SystemExit("czkawka is not installed; pip install czkawka") from None
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    finder = ImageSimilarity()
    finder.set_directories([pile.root])
    finder.set_similarity(10)
    finder.find_similar()


class Opened:
    """Pictures decoded and prepared one by one, for torch's DataLoader."""

    def __init__(self, paths: list[Path], prepare: Callable[[Image.Image], Any]):
        self.paths, self.prepare = paths, prepare

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.paths[index]) as image:
            return self.prepare(image.convert("RGB"))


def loader(paths: list[Path], prepare: Callable[[Image.Image], Any], workers: int) -> Any:
    """Batches of prepared pictures, as stacked arrays; more than one worker means so many processes besides this one."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    return DataLoader(Opened(paths, prepare), BATCH, num_workers=workers if workers > 1 else 0, collate_fn=np.stack)  # type: ignore[arg-type]


def squared(image: Image.Image) -> Any:
    """As WD taggers are shown pictures: padded white, 448 px, BGR."""
    import cv2

    cv2.setNumThreads(1)
    pixels = np.asarray(image)[:, :, ::-1]
    height, width = pixels.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    white = np.pad(pixels, ((top, side - height - top), (left, side - width - left), (0, 0)), constant_values=255)
    return cv2.resize(white, (448, 448), interpolation=cv2.INTER_AREA if side > 448 else cv2.INTER_LANCZOS4).astype(np.float32)


def tags(pile: Pile, workers: int) -> None:
    """A loop over batches through ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = workers
    model = str(pile.models / "miniature-tagger" / "model.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for pictures in loader(pile.stayed, squared, workers):
        session.run(None, {session.get_inputs()[0].name: pictures})


class Prepared:
    """A processor of transformers as a function that gives one picture's array."""

    def __init__(self, kind: Any, folder: Path):
        self.processor = kind.from_pretrained(folder)

    def __call__(self, image: Image.Image) -> Any:
        return self.processor(image, return_tensors="np")["pixel_values"][0]


def aesthetic(pile: Pile, workers: int) -> None:
    """A classifier's loop."""
    import torch
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    folder = pile.models / "miniature-aesthetic"
    model = ViTForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        for pictures in loader(pile.stayed, Prepared(ViTImageProcessorPil, folder), workers):
            model(torch.from_numpy(pictures)).logits.softmax(1)


def quality(pile: Pile, workers: int) -> None:
    """CLIP's embedding and an MLP."""
    import torch
    from safetensors.torch import load_file
    from torch.nn.functional import linear, normalize
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    folder = pile.models / "miniature-quality"
    model = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=torch.float32).eval()
    mlp = {name: value.float() for name, value in load_file(folder / "mlp.safetensors").items()}
    with torch.inference_mode():
        for pictures in loader(pile.stayed, Prepared(CLIPImageProcessorPil, folder), workers):
            x = normalize(model(torch.from_numpy(pictures)).image_embeds, dim=1)
            for name in ("fc1", "fc2", "fc3"):
                x = linear(x, mlp[f"{name}.weight"], mlp[f"{name}.bias"])
                x = x.relu() if name != "fc3" else x.sigmoid()
