"""Downloads, against a server in this process that speaks the hub's language: connected repositories, pins, breaks, refusals."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from tiny import tiny_cascade

from sotediffusion.cli.generate import generate
from sotediffusion.cli.weights import group
from sotediffusion.models.cascade import Cascade
from sotediffusion.pictures.files import read_settings
from sotediffusion.pipelines import StableCascadeCombinedPipeline, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from sotediffusion.types import UserError
from sotediffusion.weights import cache, components, hub, store
from sotediffusion.weights.bundle import WHOLE, Choice

DECODER, PRIOR = "Someone/sote-m", "Someone/sote-m-prior"
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@dataclass
class Hub:
    """The repositories that the server offers, and what it was asked."""

    folders: dict[str, Path]
    address: str = ""
    asked: list[str] = field(default_factory=list)
    shown: set[str | None] = field(default_factory=set)  # as whom
    breaks: set[str] = field(default_factory=set)  # file names whose first transfer stops halfway
    resumed: list[str] = field(default_factory=list)


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args) -> None:
            pass

        def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            state.asked.append(f"{self.command} {self.path}")
            state.shown.add(self.headers.get("Authorization"))
            api = re.match(r"/api/models/([^/]+/[^/]+)/(?:revision|tree)/([^/?]+)", self.path)
            file = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            found = api or file
            if found is None or found[1] not in state.folders:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            commit = COMMITS.get(found[2], found[2])
            if commit not in COMMITS.values():
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return self.listing(found[1], commit) if api else self.file(state.folders[found[1]] / found[3], commit)

        do_HEAD = do_GET

        def listing(self, id: str, commit: str) -> None:
            folder = state.folders[id]
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            names = [str(path.relative_to(folder)) for path in paths]
            if "/tree/" in self.path:
                table = [{"type": "file", "path": name, "size": path.stat().st_size, "oid": etag(path)}
                         for name, path in zip(names, paths, strict=True)]  # fmt: skip
            else:
                table = {"id": id, "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            self.answer(200, json.dumps(table).encode(), {"Content-Type": "application/json"})

        def file(self, path: Path, commit: str) -> None:
            if not path.is_file():
                return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            content = path.read_bytes()
            about = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            part = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if part and self.command == "GET":
                first = int(part[1])
                state.resumed.append(path.name)
                about["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                return self.answer(206, content[first:], about)
            if self.command == "GET" and path.name in state.breaks:
                state.breaks.remove(path.name)
                self.answer(200, content[: len(content) // 2], {**about, "Content-Length": str(len(content))})
                self.wfile.flush()
                self.close_connection = True
                return None
            return self.answer(200, content, about)

    return Handler


def etag(path: Path) -> str:
    return f"{path.stat().st_size:040x}"


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return replace(tiny_cascade(), license="faipl-1.0-sd", name="")


@pytest.fixture
def server(cascade, tmp_path, monkeypatch):
    """A published model: two repositories that name each other."""
    published = tmp_path / "published"
    store.save_cascade(cascade, published / "sote-m", "diffusers-connected")
    for name, other, role in (("sote-m", PRIOR, "prior"), ("sote-m-prior", DECODER, "decoder")):
        (published / name / "README.md").write_text(
            f"---\nlicense: other\nlicense_name: faipl-1.0-sd\n{role}:\n- {other}\n---\n# A model\n"
        )
        (published / name / "pytorch_model.bin").write_bytes(b"\x80pickle")
    state = Hub({DECODER: published / "sote-m", PRIOR: published / "sote-m-prior"})
    service = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    state.address = f"http://127.0.0.1:{service.server_address[1]}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    threading.Thread(target=service.serve_forever, daemon=True).start()
    yield state
    service.shutdown()
    service.server_close()


def same(a: Cascade, b: Cascade) -> bool:
    return all(
        torch.equal(value, b.parts()[part].state_dict()[name])
        for part, network in a.parts().items() for name, value in network.state_dict().items()
    )  # fmt: skip


@pytest.mark.parametrize("id", [DECODER, PRIOR])
def test_one_id_brings_both_repositories_and_the_cascade_opens(server, cascade, tmp_path, id):
    fetched = hub.download(id, cache=tmp_path / "cache", endpoint=server.address)
    assert {repository.id for repository in fetched} == {DECODER, PRIOR}
    assert fetched[0].id == id
    opened = store.open_cascade(cache.locate(id, cache=tmp_path / "cache"))
    assert same(opened, cascade)
    assert (opened.name, opened.license) == (id, "faipl-1.0-sd")
    assert {repository.id for repository in hub.downloaded(tmp_path / "cache")} == {DECODER, PRIOR}


def test_pickles_and_the_unused_text_encoder_are_not_fetched(server, tmp_path):
    hub.download(DECODER, cache=tmp_path / "cache", endpoint=server.address)
    fetched = [line for line in server.asked if line.startswith("GET") and "/resolve/" in line]
    assert not any(".bin" in line for line in fetched)
    assert not any(f"{DECODER}/resolve" in line and "text_encoder/model" in line for line in fetched)
    assert any(f"{PRIOR}/resolve" in line and "text_encoder/model" in line for line in fetched)


def test_a_broken_connection_is_taken_up_where_it_broke(server, cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # what it keeps of a break, 10 MB else
    server.breaks = {"model.safetensors"}  # the prior's text encoder, the largest file
    hub.download(DECODER, cache=tmp_path / "cache", endpoint=server.address)
    assert server.breaks == set()
    assert server.resumed == ["model.safetensors"]
    assert same(store.open_cascade(cache.locate(DECODER, cache=tmp_path / "cache")), cascade)


def test_a_second_download_fetches_no_weights(server, tmp_path):
    hub.download(DECODER, cache=tmp_path / "cache", endpoint=server.address)
    server.asked.clear()
    hub.download(DECODER, cache=tmp_path / "cache", endpoint=server.address)
    assert not any(line.startswith("GET") and line.endswith(".safetensors") for line in server.asked)


@pytest.mark.parametrize("revision", ["v1", COMMITS["v1"]])
def test_a_revision_pins_the_repository_asked_for(server, tmp_path, revision):
    fetched = hub.download(DECODER, revision, tmp_path / "cache", server.address)
    assert [repository.commit for repository in fetched] == [COMMITS["v1"], COMMITS["main"]]
    assert cache.find(DECODER, revision, tmp_path / "cache") == fetched[0].path
    assert cache.locate(f"{DECODER}@{revision}", cache=tmp_path / "cache") == fetched[0].path


def test_what_was_downloaded_at_a_revision_alone_is_the_model_of_that_id(server, tmp_path):
    place = tmp_path / "cache"
    (pin, _) = hub.download(DECODER, "v1", place, server.address)
    assert cache.locate(DECODER, cache=place) == pin.path
    (main, _) = hub.download(DECODER, None, place, server.address)
    assert cache.locate(DECODER, cache=place) == main.path
    assert cache.locate(f"{DECODER}@v1", cache=place) == pin.path
    with pytest.raises(UserError, match=f"{DECODER}@v2 is not here; .*, or run `sote weights download {DECODER} --revision v2`"):
        cache.locate(f"{DECODER}@v2", cache=place)


def test_the_commands_take_an_id_with_its_revision(server, cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=server.address, cache=tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    sote = CliRunner()
    assert sote.invoke(group, ["download", DECODER, "--revision", "v1"]).exit_code == 0
    found = json.loads(sote.invoke(group, ["inspect", f"{DECODER}@v1", "--json"]).output)
    assert found["name"] == DECODER and any(COMMITS["v1"] in part["source"] for part in found["parts"])
    quick, out = ["1girl", "--size", "64x64", "--steps", "1", "--decoder-steps", "1"], tmp_path / "a.png"
    assert sote.invoke(generate, [*quick, "--model", f"{DECODER}@v1", "--out", str(out)]).exit_code == 0
    assert sote.invoke(group, ["convert", f"{DECODER}@v1", str(tmp_path / "m"), "--to", "folder"]).exit_code == 0
    assert same(store.open_cascade(tmp_path / "m"), cascade)


def test_a_pipeline_fetches_the_revision_that_its_id_names(server, cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=server.address))
    pipe = StableCascadeDecoderPipeline.from_pretrained(f"{DECODER}@v1", cache_dir=tmp_path / "cache")
    assert torch.equal(pipe.decoder.clip_mapper.weight, cascade.stage_b.clip_mapper.weight)
    assert cache.find(DECODER, "main", tmp_path / "cache") is None


@pytest.mark.parametrize(("id", "revision", "message"), [
    ("Someone/else", None, "id: Someone/else is not on the hub, or private; published are Disty0/sotediffusion"),
    (DECODER, "v9", "revision: 'v9' is not in Someone/sote-m"),
    ("a/b/c d", None, "id: 'a/b/c d' is not a hub id"),
])  # fmt: skip
def test_what_is_not_on_the_hub_is_one_sentence(server, tmp_path, id, revision, message):
    with pytest.raises(UserError, match=message):
        hub.download(id, revision, tmp_path / "cache", server.address)


def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its tries
    with pytest.raises(UserError, match=r"could not be fetched .*check the connection and run it again"):
        hub.download(DECODER, cache=tmp_path / "cache", endpoint="http://127.0.0.1:9")


def test_a_repository_of_pickles_is_refused(server, tmp_path):
    for path in server.folders[DECODER].rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="holds no safetensors"):
        hub.download(DECODER, cache=tmp_path / "cache", endpoint=server.address)


def test_a_model_not_downloaded_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="run `sote weights download Someone/sote-m`"):
        cache.locate(DECODER, cache=tmp_path)


def test_a_build_without_the_embedded_weights_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "embedded", lambda: tmp_path / "weights")
    with pytest.raises(UserError, match="model: the embedded weights are not in this build; train them with `make miniature`"):
        cache.locate("miniature")


def test_the_embedded_model_has_a_name_that_no_folder_here_takes_over(tmp_path, monkeypatch):
    (tmp_path / "miniature").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "embedded", lambda: tmp_path)
    assert cache.locate("miniature") == tmp_path
    assert cache.locate("./miniature") == cache.locate(Path("miniature")) == Path("miniature")


def test_original_files_and_variants_beside_diffusers_folders_are_left_out():
    files = ["README.md", "LICENSE", "model_index.json", "stage_c_bf16.safetensors", "effnet_encoder.safetensors", "x.ckpt",
             "comfyui_checkpoints/stage_b.safetensors", "decoder_lite/diffusion_pytorch_model.safetensors",
             "decoder/diffusion_pytorch_model.safetensors", "decoder/diffusion_pytorch_model.bf16.safetensors",
             "vqgan/model-00001-of-00002.safetensors", "vqgan/model-00002-of-00002.safetensors",
             "text_encoder/model.safetensors", "tokenizer/merges.txt"]  # fmt: skip
    assert set(files) - set(hub.wanted_files(files)) == {
        "x.ckpt", "stage_c_bf16.safetensors", "text_encoder/model.safetensors",
        "comfyui_checkpoints/stage_b.safetensors", "decoder_lite/diffusion_pytorch_model.safetensors",
        "decoder/diffusion_pytorch_model.bf16.safetensors",
    }  # fmt: skip
    only = ["prior/a.bf16.safetensors", "model_index.json"]
    assert set(hub.wanted_files(only)) == set(only)
    loose = ["unet.safetensors", "clip.safetensors"]
    assert hub.wanted_files(loose) == loose


def make_variant(folder: Path, dtype: torch.dtype = torch.bfloat16, sharded: bool = True) -> None:
    """Beside every component's file its bf16 copy, the prior's in shards, as save_pretrained(variant="bf16") writes them."""
    for path in folder.rglob("*/*.safetensors"):
        values = {name: value.to(dtype) for name, value in safetensors.torch.load_file(path).items()}
        if not sharded or "prior" not in path.parent.name:
            safetensors.torch.save_file(values, path.with_name(f"{path.stem}.bf16.safetensors"), {"format": "pt"})
            continue
        names = sorted(values)
        parts = {f"{path.stem}.bf16-{i + 1:05d}-of-00002.safetensors": names[i::2] for i in (0, 1)}
        for file, held in parts.items():
            safetensors.torch.save_file({name: values[name] for name in held}, path.with_name(file), {"format": "pt"})
        places = {name: file for file, held in parts.items() for name in held}
        index = path.with_name(f"{path.stem}.safetensors.index.bf16.json")
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize(("name", "variant"), [
    ("model.safetensors", ""), ("model-00001-of-00002.safetensors", ""), ("model.safetensors.index.json", ""),
    ("model.bf16.safetensors", "bf16"), ("model.bf16-00001-of-00002.safetensors", "bf16"),
    ("model-00001-of-00002.fp16.safetensors", "fp16"), ("model.safetensors.index.fp16.json", "fp16"),
    ("model.safetensors.fp16.index.json", "fp16"), ("config.json", None), ("model.bf16.bin", None),
])  # fmt: skip
def test_a_files_name_says_its_variant(name, variant):
    assert components.variant_of(name) == variant


@pytest.mark.parametrize("variant", ["", "bf16"])
def test_a_variant_is_fetched_and_opened_alone(server, cascade, tmp_path, monkeypatch, variant):
    for folder in server.folders.values():
        make_variant(folder)
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=server.address))
    kind = StableCascadeCombinedPipeline
    pipe = kind.from_pretrained(DECODER, cache_dir=tmp_path / "cache", variant=variant or None)
    fetched = [line for line in server.asked if re.match(r"GET .*/resolve/\w+/.+/.*safetensors", line)]  # in a part's folder
    assert {"bf16" in line for line in fetched} == {bool(variant)}
    wanted = cascade.stage_c.clip_txt_mapper.weight
    assert torch.equal(pipe.prior_prior.clip_txt_mapper.weight, wanted.bfloat16().float() if variant else wanted)
    found = store.open_cascade(cache.locate(DECODER, cache=tmp_path / "cache"))  # what was fetched needs no more naming
    assert found.stage_b.clip_mapper.weight.dtype == (torch.bfloat16 if variant else torch.float32)


def test_a_variant_is_taken_part_by_part_where_it_is(server, cascade, tmp_path):
    make_variant(server.folders[PRIOR] / "prior", sharded=False)
    path = server.folders[PRIOR] / "prior" / "diffusion_pytorch_model.safetensors"
    values = {name: value.bfloat16() for name, value in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(values, path.with_name("diffusion_pytorch_model.bf16.safetensors"))
    opened = store.open_cascade(server.folders[PRIOR], choice=replace(WHOLE, variant="bf16"))
    assert opened.stage_c.clip_txt_mapper.weight.dtype == torch.bfloat16
    assert opened.stage_b.clip_mapper.weight.dtype == torch.float32
    plain = store.open_cascade(server.folders[PRIOR])
    assert plain.stage_c.clip_txt_mapper.weight.dtype == torch.float32


def test_a_variant_that_is_nowhere_is_refused_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(UserError, match="variant: Someone/sote-m has no files of the variant 'fp8'"):
        hub.download(DECODER, cache=tmp_path / "cache", endpoint=server.address, choice=replace(WHOLE, variant="fp8"))
    assert not any("/resolve/" in line for line in server.asked)
    with pytest.raises(UserError, match=r"variant: 'fp8' is in the name of no file here, as in model\.fp8\.safetensors"):
        store.open_cascade(server.folders[DECODER], choice=replace(WHOLE, variant="fp8"))


@pytest.mark.parametrize(("kind", "id", "other"), [
    (StableCascadePriorPipeline, PRIOR, DECODER), (StableCascadeDecoderPipeline, DECODER, PRIOR),
])  # fmt: skip
def test_a_half_fetches_its_own_repository_alone(server, cascade, tmp_path, monkeypatch, kind, id, other):
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=server.address))
    del server.folders[other]
    pipe = kind.from_pretrained(id, cache_dir=tmp_path / "cache")
    assert torch.equal(pipe.text_encoder.text_projection.weight, cascade.text.text_projection.weight)
    asked = [re.search(r"(Someone/[\w-]+)/(resolve|tree|revision)", line) for line in server.asked]
    assert {found[1] for found in asked if found} == {id}


def test_a_half_named_by_the_others_repository_is_fetched_from_its_own(server, cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=server.address))
    pipe = StableCascadePriorPipeline.from_pretrained(DECODER, cache_dir=tmp_path / "cache")
    assert torch.equal(pipe.prior.clip_txt_mapper.weight, cascade.stage_c.clip_txt_mapper.weight)
    assert not any(re.search(f"{DECODER}/resolve/.*safetensors", line) for line in server.asked)


def test_a_pipeline_shows_its_token_to_the_hub_and_asks_it_nothing_where_only_local_files_are_wanted(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=server.address))
    opened = partial(StableCascadeDecoderPipeline.from_pretrained, DECODER, cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=f"{DECODER} is not here; .*, or run `sote weights download"):
        opened(local_files_only=True)
    assert not server.asked
    opened(use_safetensors=True, token="hf_secret")
    assert server.shown == {"Bearer hf_secret"}
    server.asked.clear()
    opened(local_files_only=True)
    assert not server.asked
    with pytest.raises(UserError, match="use_safetensors: False would open pickles, which can run code"):
        opened(use_safetensors=False)


@pytest.fixture
def with_lite(server, cascade):
    """The server's repositories as Stability's are: with lite networks beside the full ones, here told apart by a number."""
    for id, name in ((PRIOR, "prior"), (DECODER, "decoder")):
        folder = server.folders[id]
        shutil.copytree(folder / name, folder / f"{name}_lite")
        path = folder / f"{name}_lite" / "diffusion_pytorch_model.safetensors"
        values = safetensors.torch.load_file(path)
        values["clf.1.bias"] += 1
        safetensors.torch.save_file(values, path, {"format": "pt"})
    return server


def is_lite(opened: Cascade, cascade: Cascade) -> bool:
    """Of both stages, or of neither."""
    stages = ((getattr(one, name).clf[1].bias for one in (opened, cascade)) for name in ("stage_c", "stage_b"))
    (answer,) = {torch.equal(found, plain + 1) for found, plain in stages}
    return answer


def test_lite_networks_are_fetched_alone_and_opened_as_what_is_there(with_lite, cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=with_lite.address))
    place = tmp_path / "cache"
    pipe = StableCascadeCombinedPipeline.from_pretrained(DECODER, cache_dir=place, lite=True)
    assert is_lite(pipe.cascade, cascade)
    fetched = [line for line in with_lite.asked if "/resolve/" in line]
    assert any("prior_lite/" in line for line in fetched) and any("decoder_lite/" in line for line in fetched)
    assert not any(re.search("/(prior|decoder)/", line) for line in fetched)
    assert is_lite(store.open_cascade(cache.locate(DECODER, cache=place)), cascade)
    hub.download(DECODER, cache=place)  # with the full ones beside them it has to be said
    assert not is_lite(store.open_cascade(cache.locate(DECODER, cache=place)), cascade)
    assert is_lite(store.open_cascade(cache.locate(DECODER, cache=place), choice=Choice(lite=True)), cascade)
    halves = [kind.from_pretrained(DECODER, cache_dir=place, lite=True).cascade
              for kind in (StableCascadePriorPipeline, StableCascadeDecoderPipeline)]  # fmt: skip
    assert is_lite(replace(halves[0], stage_b=halves[1].stage_b), cascade)


def test_lite_networks_that_are_nowhere_are_refused_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(UserError, match="lite: Someone/sote-m holds neither prior_lite/ nor decoder_lite/"):
        hub.download(DECODER, cache=tmp_path / "cache", endpoint=server.address, choice=Choice(lite=True))
    assert not any("/resolve/" in line for line in server.asked)
    with pytest.raises(UserError, match="lite: .*prior/diffusion_pytorch_model.safetensors is not in a folder like prior_lite/"):
        store.open_cascade(server.folders[DECODER], choice=Choice(lite=True))


def test_half_of_one_folder_is_fetched_without_the_rest(server, cascade, tmp_path):
    store.save_cascade(cascade, server.folders[DECODER].parent / "whole", "diffusers")
    server.folders["Someone/whole"] = server.folders[DECODER].parent / "whole"
    choice = Choice(StableCascadePriorPipeline.opens)
    (fetched,) = hub.download("Someone/whole", cache=tmp_path / "cache", endpoint=server.address, choice=choice)
    files = {str(path.relative_to(fetched.path)) for path in fetched.path.rglob("*.safetensors")}
    assert files == {"prior_prior/diffusion_pytorch_model.safetensors", "prior_text_encoder/model.safetensors",
                     "previewer.safetensors"}  # fmt: skip
    assert store.open_cascade(fetched.path, choice=choice).parts().keys() == {"text", "stage_c", "previewer"}


def test_the_commands_take_lite_networks_and_variants(with_lite, cascade, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download", partial(hub.download, endpoint=with_lite.address, cache=tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    sote = CliRunner()
    assert sote.invoke(group, ["download", DECODER, "--lite"]).exit_code == 0
    assert sote.invoke(group, ["download", DECODER]).exit_code == 0
    for lite in ([], ["--lite"]):
        out = tmp_path / f"m{len(lite)}"
        assert sote.invoke(group, ["convert", DECODER, str(out), "--to", "folder", *lite]).exit_code == 0
        assert is_lite(store.open_cascade(out), cascade) == bool(lite)
        found = json.loads(sote.invoke(group, ["inspect", DECODER, "--json", *lite]).output)
        assert any("prior_lite" in part["source"] for part in found["parts"]) == bool(lite)
    quick, out = ["1girl", "--size", "64x64", "--steps", "1", "--decoder-steps", "1"], tmp_path / "a.png"
    assert sote.invoke(generate, [*quick, "--model", DECODER, "--lite", "--out", str(out)]).exit_code == 0
    assert read_settings(out)["hashes"]["stage_b"] == store.open_cascade(tmp_path / "m1").hashes["stage_b"]
    failed = sote.invoke(group, ["inspect", DECODER, "--variant", "fp8"]).exception
    assert isinstance(failed, UserError) and failed.field == "variant"


def test_the_command_downloads_lists_inspects_and_converts(server, tmp_path, monkeypatch):
    home = tmp_path / "home"
    env = {**os.environ, "HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    code = "import sys; from sotediffusion.cli.main import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", code, "weights", "download", DECODER]
    done = subprocess.run(arguments, capture_output=True, text=True, env=env, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [DECODER, PRIOR]

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    sote = CliRunner()
    assert f"{DECODER} at aaaaaaaaaa" in sote.invoke(group, ["list"]).output
    found = sote.invoke(group, ["inspect", DECODER]).output
    assert "Fair AI Public License 1.0-SD" in found and "stage_b   tiny" in found
    assert json.loads(sote.invoke(group, ["inspect", DECODER, "--json"]).output)["format"] == "diffusers-connected"
    assert sote.invoke(group, ["convert", DECODER, str(tmp_path / "m"), "--to", "kohya"]).exit_code == 0
    assert (tmp_path / "m_text_model.safetensors").is_file()
    failed = sote.invoke(group, ["inspect", "Nobody/nothing"]).exception
    assert isinstance(failed, UserError) and "sote weights download Nobody/nothing" in str(failed)
