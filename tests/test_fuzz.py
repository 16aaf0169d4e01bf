"""Orders made from the API's own description, right and wrong ones: nothing is a fault of ours, and all is said as described."""

from collections import Counter

import pytest
from drawing import drawing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import quick_folder, site

from sotediffusion.serve.walls.admission import Bounds

pytestmark = pytest.mark.system

ENDLESS = "/api/v1/events"  # its events never end; test_api reads it
EACH = 8  # examples of an operation, right ones and wrong ones
# What no description knows: words that are drawn, and a size that this server draws. Every other example has them.
GOOD = {"prompt": "1girl, solo", "width": 64, "height": 64, "image_size": {"width": 64, "height": 64}, "size": "64x64",
        "model": None, "preset": None, "loras": [], "styles": [], "sampler_name": None, "scheduler": None, "script_name": None,
        "alwayson_scripts": {}, "enable_hr": False, "tiling": False, "restore_faces": False, "subseed_strength": 0,
        "override_settings": {}, "batch_size": 1, "n_iter": 1, "n": 1, "steps": 2, "num_inference_steps": 2}  # fmt: skip
DRAWN = ("/fal-ai/stable-cascade", "/v1/images/generations", "/sdapi/v1/txt2img", "/api/v1/jobs", "/api/v1/jobs/{id}",
         "/api/v1/jobs/{id}/events", "/fal/queue/fal-ai/stable-cascade/requests/{id}/status")  # fmt: skip # answered well, too


@pytest.fixture(scope="module")
def made():
    """A server whose jobs are drawn at once."""
    with quick_folder() as folder, site(folder, bounds=Bounds(pixels=128 * 128, count=2)) as running, drawing(running):
        yield running


@pytest.mark.parametrize("right", [True, False])
def test_no_order_that_the_description_leads_to_is_a_fault_of_ours(made, right):
    schemathesis = pytest.importorskip("schemathesis")
    from schemathesis.specs.openapi import checks

    said = made.client.get("/openapi.json").json()
    said["paths"].pop(ENDLESS)
    described = schemathesis.openapi.from_dict(said)
    described.config.update(base_url=made.base)
    mode = schemathesis.GenerationMode.POSITIVE if right else schemathesis.GenerationMode.NEGATIVE
    wanted = [checks.content_type_conformance, checks.response_schema_conformance, schemathesis.checks.not_a_server_error]
    id = made.submit(seed=1)["id"]
    fals = made.client.post("/fal/queue/fal-ai/stable-cascade", json=GOOD).json()["request_id"]
    seen: Counter[tuple[str, bool]] = Counter()
    faults: list[str] = []
    for found in described.get_all_operations():
        operation = found.ok()
        try:
            known = fals if operation.path.startswith("/fal/") else id
            _try(operation, operation.as_strategy(generation_mode=mode), wanted, known, seen)
        except Exception as error:
            faults.append(f"{operation.label}: {type(error).__name__} {error}"[:1500])
    assert not faults, "\n\n".join(faults)
    if right:
        assert not [path for path in DRAWN if not seen[path, True]], seen


def _try(operation, cases, checks, known, seen):
    @settings(max_examples=EACH, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases, good=st.booleans())
    def check(case, good):
        if good and isinstance(case.body, dict):
            fields = operation.body[0].definition["schema"]["properties"]
            case.body |= {name: value for name, value in GOOD.items() if name in fields}
        if good and "id" in (case.path_parameters or {}) and operation.method != "delete":
            case.path_parameters["id"] = known
        reply = case.call(timeout=300)
        seen[operation.path, reply.status_code < 300] += 1
        case.validate_response(reply, checks=checks)

    check()
