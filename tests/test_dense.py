"""Linear maps as a CPU draws with them fastest: torch's values, in any of its ways, and ones that torch.compile understands."""

import pytest
import torch
import torch.nn.functional as F

from sotediffusion.models.dense import MANY, dense


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float64, 1e-12)])
@pytest.mark.parametrize("rows", [3, MANY])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("abroad", [False, True])
def test_values_are_those_of_torch(dtype: torch.dtype, tolerance: float, rows: int, gelu: bool, abroad: bool,
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("sotediffusion.models.dense._abroad", lambda: abroad)
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 24).to(dtype)
    x = torch.randn(rows, 16, dtype=dtype)
    with torch.inference_mode():
        expected = F.linear(x.double(), layer.weight.double(), layer.bias.double())
        found = dense(x, layer.weight, layer.bias, gelu)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), F.gelu(expected) if gelu else expected, rtol=tolerance, atol=tolerance)


def test_it_can_be_compiled() -> None:
    x, weight, bias = torch.randn(MANY, 16), torch.randn(24, 16), torch.randn(24)
    compiled = torch.compile(dense, backend="eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.allclose(compiled(x, weight, bias, True), F.gelu(F.linear(x, weight, bias)), atol=1e-5)
