"""Scoring: one number a picture from each scorer, to the exact contract of each; numbers are kept, words for them are cut later.

Sources: shadowlilac/aesthetic-shadow-v2 (a ViT whose label `hq` is the score), waifu-diffusion/aesthetic (an MLP on the image
embeddings of CLIP ViT-B/32, Radford et al. 2021), deepghs/anime_aesthetic (an ONNX classifier of seven ranks).
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sotediffusion.curate.inference.published import file_hash, find_model
from sotediffusion.curate.inference.runtime import open_session, provider_of, wants_gpu
from sotediffusion.curate.inference.views import FILTERS, Array, batch, centre_view, squashed_view, standards
from sotediffusion.curate.step import PictureStep, View
from sotediffusion.names import unknown
from sotediffusion.types import UserError

CONFIG, PREPROCESSOR, WEIGHTS, MLP = "config.json", "preprocessor_config.json", "model.safetensors", "mlp.safetensors"
GOOD = "hq"  # the label whose probability is the score
LAYERS = ("fc1", "fc2", "fc3")
MODEL, META = "model.onnx", "meta.json"
RANKS = ("worst", "low", "normal", "good", "great", "best", "masterpiece")


@dataclass(frozen=True)
class ScoreSettings:
    """Which scorers look at the pictures, and on what."""

    scorers: tuple[str, ...] = ("aesthetic-shadow-v2", "aes-B32-v0")
    device: str = "cpu"  # or "cuda", "xpu", as torch calls it
    batch: int = 16
    threads: int = 0  # of torch on a CPU; 0 leaves them as they are
    precision: str = "float32"  # or "float16", "bfloat16" where a scorer bears it


class Scorer(ABC):
    """A model in a folder that gives each picture a number."""

    files: tuple[str, ...]  # that are opened

    def __init__(self, folder: Path, settings: ScoreSettings):
        self.folder = folder
        self.settings = settings

    @property
    @abstractmethod
    def view(self) -> View:
        """What it looks at."""

    @abstractmethod
    def open(self) -> None:
        """Load the weights."""

    @abstractmethod
    def score(self, pictures: Array) -> Array:
        """uint8 (N, H, W, 3) -> float32 (N,)."""

    def identity(self) -> dict[str, Any]:
        """The hashes of all files, and the precision."""
        return {name: file_hash(self.folder / name) for name in self.files} | {"precision": self.settings.precision}


class TorchScorer(Scorer):
    """One whose input a Hugging Face preprocessor describes."""

    def __init__(self, folder: Path, settings: ScoreSettings):
        super().__init__(folder, settings)
        self.preparation = _read_json(folder / PREPROCESSOR)
        if not all(isinstance(self.preparation.get(name), list) for name in ("image_mean", "image_std")):
            raise UserError("scorer", f"{folder / PREPROCESSOR} has no image_mean or image_std; fetch the model again")

    def side(self, name: str, key: str) -> int:
        """A side in px that the preprocessor names, alone or in a table."""
        told = self.preparation.get(name)
        side = told.get(key) if isinstance(told, dict) else told
        if not isinstance(side, int):
            raise UserError("scorer", f"{self.folder / PREPROCESSOR} has no {name} in px; fetch the model again")
        return side

    def filter(self, usual: int) -> int:
        """Pillow's number of the filter that pictures are resized with."""
        number = self.preparation.get("resample", usual)
        if number not in FILTERS:
            known = ", ".join(map(str, FILTERS))
            raise UserError("scorer", f"{self.folder / PREPROCESSOR} has resample {number!r}; known are {known}")
        return int(number)

    def inputs(self, pictures: Array) -> Any:
        """The model's tensor for pictures, by the mean and deviation of the preprocessor."""
        import torch

        by = tuple(self.preparation["image_mean"]), tuple(self.preparation["image_std"])
        if self.settings.device == "cpu":
            values = torch.from_numpy(batch(pictures, *by))
        else:
            values = batch_on(torch.from_numpy(pictures).to(self.settings.device), *by)
        return values.to(getattr(torch, self.settings.precision))


def batch_on(pictures: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """`batch` where the bytes are: a device gets them as they are, a quarter of the floats, and has the arithmetic for it."""
    import torch

    scale, shift = (torch.from_numpy(values).to(pictures.device)[:, None, None] for values in standards(mean, std))
    return pictures.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) * scale - shift


class ViTScorer(TorchScorer):
    """An image classifier in the Hugging Face contract, squashed input; the score is the softmax of the label `hq`."""

    files = (CONFIG, PREPROCESSOR, WEIGHTS)

    @property
    def view(self) -> View:
        return squashed_view(self.side("size", "height"), self.filter(2))

    def open(self) -> None:
        from transformers import ViTForImageClassification

        self.model = _open(ViTForImageClassification, self.folder, self.settings)
        labels = {str(label): int(place) for place, label in self.model.config.id2label.items()}
        if GOOD not in labels:
            raise UserError("scorer", f"{self.folder} has the labels {', '.join(labels)} and none is {GOOD!r}; "
                                      "choose a model in the contract of aesthetic-shadow-v2")
        self.good = labels[GOOD]

    def score(self, pictures: Array) -> Array:
        import torch

        with torch.inference_mode():
            logits = self.model(pixel_values=self.inputs(pictures)).logits.float()
            return np.asarray(logits.softmax(dim=1)[:, self.good].cpu().numpy(), np.float32)


class ClipScorer(TorchScorer):
    """An MLP on CLIP's projected image embedding, each picture's embedding on the unit sphere by itself.

    Always float32: 16 bit gives nonsense.
    """

    files = (CONFIG, PREPROCESSOR, WEIGHTS, MLP)

    def __init__(self, folder: Path, settings: ScoreSettings):
        super().__init__(folder, ScoreSettings(settings.scorers, settings.device, settings.batch, settings.threads))

    @property
    def view(self) -> View:
        short, crop = self.side("size", "shortest_edge"), self.side("crop_size", "height")
        if short != crop:
            raise UserError("scorer", f"{self.folder / PREPROCESSOR} resizes to {short} and crops {crop}; both must be the same")
        return centre_view(crop, self.filter(3))

    def open(self) -> None:
        from safetensors.numpy import load_file
        from transformers import CLIPVisionModelWithProjection

        self.model = _open(CLIPVisionModelWithProjection, self.folder, self.settings)
        self.mlp = load_file(self.folder / MLP)
        wanted, given = self.mlp[f"{LAYERS[0]}.weight"].shape[1], self.model.config.projection_dim
        if wanted != given:
            raise UserError("scorer", f"{self.folder / MLP} takes {wanted} numbers and the CLIP beside it gives {given}; "
                                      "fetch both again")  # fmt: skip

    def score(self, pictures: Array) -> Array:
        import torch

        with torch.inference_mode():
            embeds = self.model(pixel_values=self.inputs(pictures)).image_embeds.cpu().numpy()
        return mlp_scores(self.mlp, unit_rows(embeds))


class RankScorer(Scorer):
    """An ONNX classifier whose labels are RANKS, as deepghs/anime_aesthetic is: the expected rank, from 0 to 1.

    It takes float32 (N, 3, 448, 448), RGB, -1..1, the aspect squashed, and answers probabilities.
    """

    files = (MODEL, META)
    size = 448  # px

    @property
    def view(self) -> View:
        return squashed_view(self.size)

    def open(self) -> None:
        labels = _read_json(self.folder / META).get("labels")
        if not isinstance(labels, list) or set(labels) != set(RANKS) or len(labels) != len(RANKS):
            raise UserError("scorer", f"{self.folder / META} has the labels {str(labels)[:120]}, not {', '.join(RANKS)}; "
                                      "choose a model in the contract of deepghs/anime_aesthetic")  # fmt: skip
        self.ranks = np.array([RANKS.index(label) for label in labels], np.float32) / np.float32(len(RANKS) - 1)
        self.session = open_session(self.folder / MODEL, provider_of(self.settings.device), self.settings.threads)
        self.input = self.session.get_inputs()[0].name

    def score(self, pictures: Array) -> Array:
        probabilities = self.session.run(None, {self.input: batch(pictures, (0.5,) * 3, (0.5,) * 3)})[0]
        return np.asarray(probabilities @ self.ranks, np.float32)

    def identity(self) -> dict[str, Any]:
        return {name: file_hash(self.folder / name) for name in self.files}


def unit_rows(embeds: Array) -> Array:
    """Each row divided by its own length, never by the batch's, so that a picture's neighbours do not matter."""
    return np.asarray(embeds / np.linalg.norm(embeds, axis=1, keepdims=True), np.float32)


def mlp_scores(weights: dict[str, Array], embeds: Array) -> Array:
    """aes-B32-v0: 512 -> 256 -> 128 -> 1, ReLU between, a sigmoid at the end; (N, 512) -> float32 (N,)."""
    hidden = embeds
    for name in LAYERS[:-1]:
        hidden = np.maximum(hidden @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], 0)
    logits = hidden @ weights[f"{LAYERS[-1]}.weight"].T + weights[f"{LAYERS[-1]}.bias"]
    return np.asarray(0.5 + 0.5 * np.tanh(logits[:, 0].astype(np.float64) / 2), np.float32)  # the sigmoid, without overflow


# name of the model's folder: its kind. More scorers are more lines.
SCORERS: dict[str, type[Scorer]] = {
    "aesthetic-shadow-v2": ViTScorer,
    "aes-B32-v0": ClipScorer,
    "anime-aesthetic": RankScorer,
    "miniature-aesthetic": ViTScorer,
    "miniature-quality": ClipScorer,
}


def column_of(scorer: str) -> str:
    """The catalogue's column for a scorer's numbers."""
    return "score_" + scorer.lower().replace("-", "_").replace(".", "_")


def score_steps(settings: ScoreSettings, models: str | Path) -> list["ScoreStep"]:
    """One step for each scorer asked for, so that a new one leaves the others' work alone."""
    return [ScoreStep(name, settings, models) for name in settings.scorers]


class ScoreStep(PictureStep):
    """Writes one scorer's column."""

    name = "score"  # each instance has its column's name
    version = 1
    reads = ()

    def __init__(self, scorer: str, settings: ScoreSettings, models: str | Path):
        """`models`: the folder that holds the scorers' folders. UserError for an unknown or missing scorer."""
        if scorer not in SCORERS:
            raise unknown("score.scorers", scorer, SCORERS)
        kind = SCORERS[scorer]
        self.name = column_of(scorer)  # type: ignore[misc]  # one step a scorer, so one name each
        self.writes = pa.schema([(self.name, pa.float32())])
        self.scorer = kind(find_model(models, scorer, kind.files), settings)
        self.views = (self.scorer.view,)
        self.batch = settings.batch
        self.gpus = float(wants_gpu(settings.device))

    def identity(self) -> dict[str, Any]:
        return self.scorer.identity()

    def setup(self) -> None:
        if self.scorer.settings.threads:
            import torch

            torch.set_num_threads(self.scorer.settings.threads)
        self.scorer.open()

    def look(self, rows: pa.RecordBatch, pictures: dict[str, Array]) -> pa.RecordBatch:
        seen = pictures[self.views[0].name]
        parts = [self.scorer.score(seen[start : start + self.batch]) for start in range(0, len(seen), self.batch)]
        return pa.record_batch([pa.array(np.concatenate(parts) if parts else [], pa.float32())], schema=self.writes)


def _open(kind: Any, folder: Path, settings: ScoreSettings) -> Any:
    """A transformers model from its folder: safetensors only, nothing fetched, nothing left at random."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()  # CLIP's text half is left out on purpose
    logging.disable_progress_bar()
    how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        model, loading = kind.from_pretrained(folder, **how, dtype=getattr(torch, settings.precision))
    except (OSError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), "")[:200]
        raise UserError("scorer", f"{folder} cannot be opened ({first}); fetch it again") from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise UserError("scorer", f"{folder / WEIGHTS} lacks {len(missing)} weights, {missing[0]} first; fetch it again")
    return model.eval().to(settings.device)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("scorer", f"{path} cannot be read ({error}); fetch the model again") from None
    if not isinstance(found, dict):
        raise UserError("scorer", f"{path} is not a preprocessor's settings; fetch the model again")
    return found
