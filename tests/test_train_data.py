"""Claims about training data: drawn once, read in an order and with captions that follow from (seed, epoch, sample)."""

import json
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sotediffusion.models.cascade import SIZES
from sotediffusion.text.prompt import chunk_prompt
from sotediffusion.train import draw as drawing
from sotediffusion.train.captions import Captioning, Captions, compose, make_tokenizer
from sotediffusion.train.data import Folder, open_array, order, pixels, prefetch
from sotediffusion.train.draw import Drawing, draw, nearest, sizes
from sotediffusion.train.encode import encode
from sotediffusion.train.recipes import effnet, stage_a, stage_b
from sotediffusion.types import UserError

AREA = 96 * 96


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    list(draw(path, 24, Drawing(seed=3, area=AREA)))
    return path


@pytest.fixture(scope="module")
def folder(data):
    return Folder(data, {"pictures": "pictures"})


def test_pictures_are_drawn_at_the_size_nearest_to_their_shape():
    choices = sizes(256 * 256)
    assert choices == [(192, 320), (224, 288), (256, 256), (288, 224), (320, 192)]
    assert [nearest(aspect, choices) for aspect in (1.0, 9 / 16, 4 / 3)] == [(256, 256), (192, 320), (288, 224)]
    assert all(side % 32 == 0 for size in choices for side in size)


def test_every_picture_is_there_once_with_its_tags(folder):
    assert len(folder) == 24
    batch = folder.read(folder.buckets[(name := folder.entries[0].bucket)].tolist(), 0, 0)
    width, height = map(int, name.split("x"))
    assert batch.fields["pictures"].shape[1:] == (height, width, 3)
    assert all("general" in tags["rating"] for tags in batch.tags)


def test_drawing_goes_on_where_it_was_stopped_and_makes_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "SHARD", 3)
    list(draw(tmp_path / "whole", 9, Drawing(1, AREA)))
    interrupted = draw(tmp_path / "broken", 9, Drawing(1, AREA))
    assert next(interrupted) == 3
    interrupted.close()
    assert list(draw(tmp_path / "broken", 9, Drawing(1, AREA))) == [3, 6, 9]
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*")) for n in ("whole", "broken")]
    assert files[0] == files[1]
    assert all((tmp_path / "whole" / f).read_bytes() == (tmp_path / "broken" / f).read_bytes() for f in files[0])


def test_a_folder_of_other_pictures_is_refused(data):
    with pytest.raises(UserError, match="choose another folder"):
        list(draw(data, 24, Drawing(seed=4, area=AREA)))


def test_a_place_that_takes_no_pictures_is_one_sentence_in_every_process(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="out: .*file cannot be written"):
        list(draw(tmp_path / "file", 1, Drawing(1, AREA)))
    monkeypatch.setattr(drawing, "SHARD", 1)
    list(draw(tmp_path / "begun", 1, Drawing(1, AREA)))
    (tmp_path / "begun" / "tags" / "00000.jsonl").unlink()
    (tmp_path / "begun" / "pictures").rename(tmp_path / "elsewhere")
    (tmp_path / "begun" / "pictures").touch()
    with pytest.raises(UserError, match=r"out: .*\.npy cannot be written"):
        list(draw(tmp_path / "begun", 1, Drawing(1, AREA), processes=2))


def test_a_full_disk_is_one_sentence_and_leaves_no_half_of_an_array(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("16 requested and 3 written")  # as numpy says it, without a number of the system's

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"data: .*a\.npy cannot be written \(16 requested and 3 written\); free space"):
        drawing.save_array(tmp_path / "a.npy", np.zeros(4), "data")
    assert os.listdir(tmp_path) == []


def test_a_folder_is_another_once_it_has_other_pictures_more_of_them_or_other_latents(data, folder, tmp_path):
    fields = ({"pictures": "pictures"}, {"effnet": "effnet-a"}, {"effnet": "effnet-b"})
    names = {Folder(data, own).identity for own in fields} | {Folder(data, fields[0], limit=3).identity}
    list(draw(tmp_path, 24, Drawing(seed=4, area=AREA)))
    names.add(Folder(tmp_path, {"pictures": "pictures"}).identity)
    assert len(names) == 5 and Folder(data, {"pictures": "pictures"}).identity == folder.identity in names


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(UserError, match="sote train render"):
        Folder(tmp_path, {})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 16), st.integers(0, 3))
def test_every_epoch_has_each_sample_once_in_batches_of_one_bucket(counts, size, epoch):
    starts = np.cumsum([0, *counts])
    buckets = {str(i): np.arange(a, b) for i, (a, b) in enumerate(pairwise(starts.tolist()))}
    batches = order(buckets, 0, epoch, size)
    assert sorted(sum(batches, [])) == list(range(starts[-1]))
    assert all(len(b) <= size and any(set(b) <= set(members.tolist()) for members in buckets.values()) for b in batches)


def test_a_run_resumed_in_the_middle_of_an_epoch_sees_what_it_would_have_seen(folder):
    whole = folder.batches(0, 0, 4)
    seen, done = [], 0
    for batch in whole:
        if done >= 30:  # into the second epoch
            break
        done += batch.size
    seen = [batch.keys, next(whole).keys]
    resumed = folder.batches(0, done, 4)
    assert [next(resumed).keys, next(resumed).keys] == seen


def test_epochs_differ_in_order_and_captions(folder):
    assert order(folder.buckets, 0, 0, 4) != order(folder.buckets, 0, 1, 4)
    tags = {"rest": [f"tag {i}" for i in range(20)]}
    assert compose(tags, (0, 0, 1), Captioning()) != compose(tags, (0, 1, 1), Captioning())
    assert compose(tags, (0, 0, 1), Captioning()) == compose(tags, (0, 0, 1), Captioning())


def test_captions_are_dropped_at_the_rate_asked_for_and_half_are_whole():
    tags = {"rest": [f"tag {i}" for i in range(20)]}
    lengths = [len(compose(tags, (0, 0, i), Captioning())) for i in range(4000)]
    assert lengths.count(0) / 4000 == pytest.approx(0.05, abs=0.015)
    assert lengths.count(20) / 4000 == pytest.approx(0.95 * 0.5, abs=0.05)


def test_training_tokens_are_those_that_drawing_makes_of_the_same_words(folder, tmp_path):
    tokenizer = make_tokenizer(folder, 1200, tmp_path)
    captions = Captions(tokenizer, captioning=Captioning(dropout=0, whole=1))
    batch = folder.read(folder.buckets[folder.entries[0].bucket].tolist(), 0, 0)
    tokens, mask = captions.encode(batch.tags, batch.keys)
    compared = 0
    for row, (tags, key) in enumerate(zip(batch.tags, batch.keys, strict=True)):
        words = ", ".join(compose(tags, key, captions.captioning)).replace("(", r"\(").replace(")", r"\)")
        chunk, *more = chunk_prompt(words, tokenizer)
        if more:  # the trainer leaves tags out instead
            continue
        compared += 1
        assert tokens[row].tolist() == list(chunk.tokens) and mask[row].tolist() == list(chunk.mask)
    assert compared


def test_a_caption_too_long_for_a_chunk_loses_whole_tags(folder, tmp_path):
    captions = Captions(make_tokenizer(folder, 1200, tmp_path))
    ids = captions.ids([f"unheard word {i}" for i in range(60)])
    assert len(ids) <= 75
    shorter = next(n for n in range(60) if captions.ids([f"unheard word {i}" for i in range(n)]) == ids)
    assert 0 < shorter < 60


def test_latents_are_encoded_once_for_each_set_of_weights(data, folder):
    torch.manual_seed(0)
    network = effnet.EffNetEncoder(SIZES["tiny"].effnet).eval()
    name = encode(data, "effnet", network, network, lambda done, total: None)
    latents = Folder(data, {"pictures": "pictures", "effnet": name})
    batch = latents.read(latents.buckets[latents.entries[0].bucket].tolist(), 0, 0)
    with torch.inference_mode():
        expected = network(pixels(batch.fields["pictures"]))
    torch.testing.assert_close(batch.fields["effnet"].float(), expected, atol=4e-3, rtol=4e-3)
    stamps = {p: p.stat().st_mtime_ns for p in (data / name).iterdir()}
    assert encode(data, "effnet", network, network, lambda done, total: None) == name
    assert stamps == {p: p.stat().st_mtime_ns for p in (data / name).iterdir()}
    network.mapper[0].weight.data.mul_(1.01)
    assert encode(data, "effnet", network, network, lambda done, total: None) != name


def test_latents_of_a_shard_that_grew_are_made_again_and_others_are_kept(tmp_path):
    (tmp_path / "pictures").mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    network = effnet.EffNetEncoder(SIZES["tiny"].effnet).eval()
    kept, grown = (f"{name}-32x32.npy" for name in ("00000", "00001"))
    np.save(tmp_path / "pictures" / kept, pictures)
    np.save(tmp_path / "pictures" / grown, pictures[:1])
    latents = tmp_path / encode(tmp_path, "effnet", network, network, lambda done, total: None)
    first = (latents / kept).stat().st_ino
    assert len(open_array(latents / grown)) == 1
    np.save(tmp_path / "pictures" / grown, pictures)
    encode(tmp_path, "effnet", network, network, lambda done, total: None)
    assert (latents / kept).stat().st_ino == first
    np.testing.assert_array_equal(open_array(latents / grown), open_array(latents / kept))


def test_a_missing_shard_is_named(data, tmp_path):
    (tmp_path / "tags").mkdir()
    line = {"shard": "00000", "bucket": "96x96", "row": 0, "tags": {}}
    (tmp_path / "tags" / "00000.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="00000-96x96.npy cannot be read"):
        Folder(tmp_path, {"pictures": "pictures"}).read([0], 0, 0)


def test_an_error_while_reading_ahead_comes_out_where_the_batch_is_awaited():
    def broken():
        yield 1
        raise UserError("data", "gone")

    with prefetch(broken()) as batches:
        assert next(batches) == 1
        with pytest.raises(UserError, match="gone"):
            next(batches)


def test_stage_b_crops_both_latents_at_the_same_place(folder):
    batch = folder.read([0, 1, 2], 0, 0)
    coarse = torch.arange(3 * 64.0).view(3, 1, 8, 8)
    fine = coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)
    a, b = stage_b.crop(coarse, fine, batch)
    assert torch.equal(a.repeat_interleave(8, 2).repeat_interleave(8, 3), b) and a.shape == (3, 1, 4, 4)


def test_stage_a_latents_have_unit_variance_by_construction(folder):
    torch.manual_seed(0)
    recipe = stage_a.StageARecipe(SIZES["tiny"], folder)
    weights = recipe.weights(recipe.modules.state_dict())
    recipe.modules.load_state_dict(weights)
    network = recipe.modules["stage_a"].eval()
    with torch.inference_mode():
        latents = [network.encode(pixels(folder.read([i], 0, 0).fields["pictures"]), quantize=False).flatten() for i in range(24)]
    assert torch.cat(latents).std().item() == pytest.approx(1.0, abs=0.15)


def test_a_part_refreshes_the_statistics_of_its_averaged_weights(folder):
    torch.manual_seed(0)
    recipe = effnet.EffNetRecipe(SIZES["tiny"], folder)
    weights = recipe.weights(recipe.modules.state_dict())
    assert not any(key.startswith("head.") for key in weights)
    assert torch.equal(recipe.modules["effnet"].mapper[1].running_var, torch.ones(16))  # the run itself is left alone
    network = effnet.EffNetEncoder(SIZES["tiny"].effnet)
    network.load_state_dict({key.removeprefix("effnet."): v for key, v in weights.items() if key.startswith("effnet.")})
    with torch.inference_mode():
        latents = [network.eval()(pixels(folder.read([i], 0, 0).fields["pictures"])) for i in range(24)]
    channels = torch.cat([x.transpose(0, 1).flatten(1) for x in latents], 1)
    assert channels.std(1).mean().item() == pytest.approx(1.0, abs=0.2)
