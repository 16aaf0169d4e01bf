"""Models of a few weights in the contracts of the published ones: taggers in ONNX, a ViT and a CLIP in their folders."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RATINGS = ("general", "sensitive", "questionable", "explicit")
SHADOW = {"image_mean": [0.65463551, 0.60715182, 0.61108185], "image_std": [0.32903292, 0.32726001, 0.31909652]}
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def write_tags(folder: Path, general: list[str], characters: list[str]) -> int:
    """A selected_tags.csv; how many tags it names."""
    rows = [(name, 9) for name in RATINGS] + [(name, 0) for name in general] + [(name, 4) for name in characters]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "selected_tags.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["tag_id", "name", "category", "count"])
        table.writerows((number, name, kind, 1000 - number) for number, (name, kind) in enumerate(rows))
    return len(rows)


def write_onnx(path: Path, nodes: list, constants: dict, shape: tuple, tags: int) -> None:
    graph = helper.make_graph(
        nodes, "tagger",
        [helper.make_tensor_value_info("input_1", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, [shape[0], tags])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def constant_tagger(folder: Path, general: dict[str, float], characters: dict[str, float],
                    ratings=(0.1, 0.8, 0.05, 0.02), size: int = 448, batch="N") -> Path:  # fmt: skip
    """A tagger that answers the same probabilities to every picture."""
    count = write_tags(folder, list(general), list(characters))
    probs = np.array([[*ratings, *general.values(), *characters.values()]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input_1"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "last"], ["column"]),
        helper.make_node("Add", ["column", "probs"], ["predictions"]),
    ]
    constants = {"zero": np.float32(0), "last": np.array([1], np.int64), "probs": probs}
    write_onnx(folder / "model.onnx", nodes, constants, (batch, size, size, 3), count)
    return folder


def colour_tagger(folder: Path, general, characters=(), size: int = 448, batch="N", seed: int = 0) -> Path:
    """A tagger whose probabilities depend on the mean blue, green and red, in that order."""
    count = write_tags(folder, list(general), list(characters))
    weights = np.random.default_rng(seed).normal(0, 0.006, (3, count)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input_1"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["predictions"]),
    ]
    write_onnx(folder / "model.onnx", nodes, {"weights": weights}, (batch, size, size, 3), count)
    return folder


def shadow_folder(folder: Path, size: int = 64, labels=("hq", "lq"), seed: int = 0) -> Path:
    """A ViT of a few weights in the contract of aesthetic-shadow-v2."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=16,
                       image_size=size, id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)},
                       initializer_range=0.3)  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    about = {"do_resize": True, "size": {"height": size, "width": size}, "resample": 2, "do_rescale": True, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**about, **SHADOW, "image_processor_type": "ViTImageProcessor"}))
    return folder


def clip_folder(folder: Path, size: int = 64, width: int = 16, seed: int = 0) -> Path:
    """A CLIP of a few weights, text half and all as it is published, with an MLP in the contract of aes-B32-v0."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(text_config={**small, "vocab_size": 99, "eos_token_id": 98, "bos_token_id": 97, "pad_token_id": 98},
                        vision_config={**small, "image_size": size, "patch_size": 16, "projection_dim": width},
                        projection_dim=width)  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    save_file(mlp_weights(width, seed), folder / "mlp.safetensors")
    about = {"do_resize": True, "size": size, "resample": 3, "do_center_crop": True, "crop_size": size, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**about, **CLIP, "image_processor_type": "CLIPImageProcessor"}))
    return folder


def mlp_weights(width: int = 512, seed: int = 0) -> dict:
    import torch

    random = torch.Generator().manual_seed(seed)
    sizes = {"fc1": (256, width), "fc2": (128, 256), "fc3": (1, 128)}
    weights = {f"{name}.weight": torch.randn(shape, generator=random) * 0.3 for name, shape in sizes.items()}
    return weights | {f"{name}.bias": torch.randn(shape[0], generator=random) * 0.1 for name, shape in sizes.items()}
