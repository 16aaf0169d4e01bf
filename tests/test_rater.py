"""Rating single pictures by a tagger's head: the same as the whole tagger says, and faults in words."""

import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sotediffusion.safety.rating import RATINGS, Rater, _square
from sotediffusion.types import UserError

pytest.importorskip("onnxruntime", reason="the serve extra brings it")
TAGGER = Path(str(files("sotediffusion") / "miniature" / "stand_ins" / "miniature-tagger"))


def test_a_picture_lies_in_the_middle_of_a_white_square_in_bgr() -> None:
    made = _square(Image.new("RGB", (40, 20), (255, 0, 10)), 40)
    assert made.shape == (40, 40, 3) and made.dtype == np.float32
    assert tuple(made[20, 20]) == (10, 0, 255) and tuple(made[2, 2]) == (255, 255, 255) == tuple(made[37, 37])


def test_a_drawing_of_the_small_world_is_general() -> None:
    assert RATINGS[Rater(TAGGER)(Image.new("RGB", (64, 96), "pink"))] == "general"


def test_the_heads_likeliest_rating_is_told(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 8, 8, 3])
    given = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 5])
    value = helper.make_tensor("value", TensorProto.FLOAT, [1, 5], [0.1, 0.2, 0.05, 0.6, 0.9])
    nodes = [helper.make_node("Constant", [], ["output"], value=value)]
    graph = helper.make_graph(nodes, "rates", [taken], [given])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx")
    shutil.copy(TAGGER / "selected_tags.csv", tmp_path)
    assert RATINGS[Rater(tmp_path)(Image.new("RGB", (3, 9)))] == "explicit nsfw"


def test_what_is_no_tagger_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="WD tagger"):
        Rater(tmp_path)
    (tmp_path / "selected_tags.csv").write_text("tag_id,name,category,count\n0,solo,0,1\n")
    with pytest.raises(UserError, match="four ratings"):
        Rater(tmp_path)
    shutil.copy(TAGGER / "selected_tags.csv", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no")
    with pytest.raises(UserError, match="model.onnx"):
        Rater(tmp_path)
