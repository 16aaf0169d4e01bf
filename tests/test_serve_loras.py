"""Jobs name LoRA of the server's folder; their worker finds the files and draws what generate draws with them."""

from dataclasses import replace
from pathlib import Path

from loras import lora_file
from serving import SMALL, serving
from test_worker import check_pictures

from sotediffusion.serve.menu import loras_in
from sotediffusion.serve.storage.jobs import JobState


def test_a_job_with_a_lora_beside_one_without_is_drawn_as_generate_draws_it(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    file = lora_file(folder / "soft.safetensors")
    known = loras_in(folder)
    assert known == {"soft": str(file)} and loras_in(tmp_path / "nothing") == {}
    with serving(tmp_path, settings={"loras": known}) as place:
        ids = [place.submit(), place.submit(loras=({"name": "soft", "weight": 0.8},))]
        bad = place.submit(loras=({"name": "gone", "weight": 0.8},))
        plain, worn, failed = place.until_ended(*ids, bad)
        check_pictures(place, plain, SMALL)
        check_pictures(place, worn, replace(SMALL, loras=((str(file), 0.8),)))
    assert failed.state == JobState.FAILED and failed.error is not None and failed.error.code == "loras"
    assert worn.pictures is not None and str(folder) not in str(worn.pictures[0].info)
