"""Jobs name LoRA of the server's folder; their worker finds the files and draws what generate draws with them."""

from dataclasses import replace
from pathlib import Path

from loras import lora_file
from serving import SMALL, serving
from test_worker import check_pictures
from web import MENU, site

from sotediffusion.serve.menu import loras_in
from sotediffusion.serve.storage.jobs import JobState


def test_a_job_with_a_lora_beside_one_without_is_drawn_as_generate_draws_it(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    file = lora_file(folder / "soft.safetensors")
    assert loras_in(str(folder)) == {"soft": str(file)} and loras_in(str(tmp_path / "nothing")) == loras_in("") == {}
    with serving(tmp_path, settings={"loras": str(folder)}) as place:
        ids = [place.submit(), place.submit(loras=({"name": "soft", "weight": 0.8},))]
        bad = place.submit(loras=({"name": "gone", "weight": 0.8},))
        plain, worn, failed = place.until_ended(*ids, bad)
        check_pictures(place, plain, SMALL)
        check_pictures(place, worn, replace(SMALL, loras=((str(file), 0.8),)))
        lora_file(folder / "gone.safetensors")  # there at last, while the worker runs
        [late] = place.until_ended(place.submit(loras=({"name": "gone", "weight": 0.8},)))
        assert late.state == JobState.SUCCEEDED
    assert failed.state == JobState.FAILED and failed.error is not None and failed.error.code == "loras"
    assert worn.pictures is not None and str(folder) not in str(worn.pictures[0].info)


def test_a_new_file_is_offered_and_taken_without_a_restart_and_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    (folder / "folder.safetensors").mkdir()
    with site(tmp_path, menu=replace(MENU, lora_folder=str(folder))) as made:
        order = {"prompt": "1girl", "loras": [{"name": "new"}]}

        def offered() -> tuple[list[str], list[str]]:
            made.client.post("/sdapi/v1/refresh-loras").raise_for_status()
            theirs = made.client.get("/sdapi/v1/loras").json()
            return made.client.get("/api/v1/about").json()["models"][0]["loras"], [lora["name"] for lora in theirs]

        assert offered() == ([], []) and made.client.post("/api/v1/jobs", json=order).status_code == 422
        (folder / "new.safetensors").write_bytes(b"x")
        assert offered() == (["new"], ["new"]) and made.client.post("/api/v1/jobs", json=order).status_code == 202
        for name in ("outside", "../outside", str(tmp_path / "outside"), "folder", "loras/new"):
            refused = made.client.post("/api/v1/jobs", json=order | {"loras": [{"name": name}]})
            assert refused.status_code == 422 and refused.json()["error"]["field"] == "loras", name
        (folder / "new.safetensors").unlink()
        assert offered() == ([], [])
