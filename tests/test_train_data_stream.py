"""Claims about batches: they follow from the cursor for any number of ranks, and kept latents are those made anew."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image
from training_pictures import catalogue_of, paint

from sotediffusion.buckets import BucketSettings
from sotediffusion.models.cascade import SIZES
from sotediffusion.models.effnet import EffNetEncoder
from sotediffusion.pictures.headers import Undecodable, read_header
from sotediffusion.text.tokenizer import ClipTokenizer
from sotediffusion.train.captions import CaptionSettings
from sotediffusion.train.fit import FitSettings, fitted, opacity
from sotediffusion.train.loss import draw
from sotediffusion.train.opening import DataSettings, Makers, open_data, prepare, read_data
from sotediffusion.train.order import Ranks
from sotediffusion.types import UserError

SETTINGS = DataSettings(buckets=BucketSettings(128, scale=1.0, shortest=64, longest=256))
COUNT = 23


@pytest.fixture(scope="module")
def makers():
    torch.manual_seed(0)
    return Makers(EffNetEncoder(SIZES["tiny"].effnet).eval(), ClipTokenizer())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    catalogue_of(folder / "pictures", folder / "cat", COUNT, repeats=lambda n: 3 if n % 7 == 0 else 1)
    return folder


def opened(home, makers, settings=SETTINGS, ranks=Ranks(), held=False):
    data = read_data(str(home / "cat"), settings, str(home / "memory"))
    prepare(data, settings, makers, str(home / "latents"), ranks, lambda *told: None)
    return open_data(data, settings, makers, str(home / "latents"), ranks, held)


def same(one, other):
    assert one.keys == other.keys and one.tags == other.tags and one.fields.keys() == other.fields.keys()
    assert (one.whole, one.last, one.void) == (other.whole, other.last, other.void)
    assert all(torch.equal(value, other.fields[name]) for name, value in one.fields.items())


def test_a_batch_is_of_one_size_with_latents_captions_and_tokens(home, makers):
    stream = opened(home, makers)
    batch = next(stream.batches(0, 0, 4))
    rows = [number % COUNT for _, _, number in batch.keys]
    width, height = stream.fits[rows[0], :2].tolist()
    assert batch.fields["effnet"].shape == (batch.size, 16, height // 32, width // 32)
    assert batch.fields["effnet"].dtype == torch.float16
    assert batch.fields["tokens"].shape == batch.fields["token_mask"].shape == (batch.size, 1, 77)
    assert set(batch.fields) == {"effnet", "tokens", "token_mask"}
    for row, tags in zip(rows, batch.tags, strict=True):
        assert tags["caption"] == [""] or set(tags["caption"][0].split(", ")) == {
            t for g in stream.samples.groups(row).values() for t in g
        }


def test_an_epoch_shows_each_picture_as_often_as_it_says(home, makers):
    stream = opened(home, makers)
    seen, images = [], 0
    for batch in stream.batches(0, 0, 4):
        seen += batch.keys
        images += batch.whole if batch.last else 0
        if images == len(stream):
            break
    assert sorted(number % COUNT for _, _, number in seen) == sorted(
        np.repeat(range(COUNT), stream.samples.column("repeats")).tolist()
    )
    assert len(set(seen)) == len(seen) == len(stream) == 31


def test_repeats_may_be_left_aside(home, makers):
    assert len(opened(home, makers, replace(SETTINGS, repeats=False))) == COUNT


def test_each_repeat_of_a_picture_has_noise_and_words_of_its_own(home, makers):
    stream = opened(home, makers, replace(SETTINGS, captions=CaptionSettings(dropout=0)))
    numbers = stream.order(4).epoch(0, 0)
    keys = [(0, 0, int(number)) for number in numbers[numbers % COUNT == 7]]
    times, noise = draw(keys, (2,))
    assert len(keys) == 3 and len(set(times.tolist())) == 3 and len({tuple(row) for row in noise.tolist()}) == 3
    texts, _, _ = stream.wording.read(np.array([7, 7, 7]), keys, 0)
    assert len(set(texts)) > 1


@pytest.mark.parametrize("stop", [1, 3, 9, 20])
def test_a_stream_goes_on_from_any_step_as_if_it_had_not_stopped(home, makers, stop):
    unbroken = opened(home, makers).batches(3, 0, 5)
    images = steps = 0
    while steps < stop:
        batch = next(unbroken)
        images, steps = (images + batch.whole, steps + 1) if batch.last else (images, steps)
    resumed = opened(home, makers).batches(3, images, 5)
    for _ in range(6):
        same(next(unbroken), next(resumed))


@pytest.mark.parametrize(("ranks", "micro"), [(2, None), (3, 2)])
def test_ranks_together_read_what_one_reads_each_its_rows_and_in_lockstep(home, makers, ranks, micro):
    alone = opened(home, makers)
    wanted = [(epoch, step.tolist()) for epoch, _, step in islice(alone.order(6).steps(0, 0), 8)]
    streams = [opened(home, makers, ranks=Ranks(rank, ranks, micro)).batches(0, 0, 6) for rank in range(ranks)]
    for epoch, step in wanted:
        last, seen, rows = False, [], 0
        while not last:
            batches = [next(stream) for stream in streams]
            assert len({batch.fields["effnet"].shape[1:] for batch in batches}) == len({batch.last for batch in batches}) == 1
            assert all(batch.whole == len(step) and batch.size <= (micro or 6) for batch in batches)
            seen += [key for batch in batches if not batch.void for key in batch.keys]
            rows += sum(batch.size for batch in batches if not batch.void)
            last = batches[0].last
        assert sorted(seen) == sorted((0, epoch, number) for number in step) and rows == len(step)


def test_latents_made_anew_are_those_that_were_kept(home, makers):
    kept, anew = opened(home, makers), opened(home, makers, replace(SETTINGS, online=True))
    assert kept.identity == anew.identity
    for one, other in zip(islice(kept.batches(0, 0, 4), 12), anew.batches(0, 0, 4), strict=False):
        assert one.keys == other.keys and torch.equal(one.fields["tokens"], other.fields["tokens"])
        torch.testing.assert_close(one.fields["effnet"], other.fields["effnet"], atol=2e-3, rtol=2e-3)


def test_mirrored_readings_are_the_same_kept_or_made_anew(home, makers):
    settings = replace(SETTINGS, fit=FitSettings(flip=True))
    kept, anew = opened(home, makers, settings), opened(home, makers, replace(settings, online=True))
    plain = opened(home, makers).batches(0, 0, 4)
    differing = 0
    for one, other, still in islice(zip(kept.batches(0, 0, 4), anew.batches(0, 0, 4), plain, strict=False), 12):
        torch.testing.assert_close(one.fields["effnet"], other.fields["effnet"], atol=2e-3, rtol=2e-3)
        differing += int((one.fields["effnet"] != still.fields["effnet"]).flatten(1).any(1).sum())
    assert 8 < differing < 40


def test_random_cuts_differ_from_epoch_to_epoch_and_follow_from_the_key(home, makers):
    settings = replace(
        SETTINGS, fit=FitSettings(crop="random"), online=True, buckets=BucketSettings(64, scale=1.0, shortest=32, longest=96)
    )
    stream = opened(home, makers, settings)
    piece = stream.order(1).pieces(np.array([1]), Ranks())[0]
    first, again, later = (stream.read(piece, 0, epoch).fields["effnet"] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert (
        not all(torch.equal(first, stream.read(piece, 0, epoch).fields["effnet"]) for epoch in range(1, 6))
        and later.shape == first.shape
    )


def test_a_picture_that_is_gone_makes_its_batch_smaller_and_no_other_different(tmp_path, makers):
    catalogue_of(tmp_path / "pictures", tmp_path / "cat", 12)
    whole = opened(tmp_path, makers).batches(0, 0, 4)
    wanted = [next(whole) for _ in range(8)]
    (tmp_path / "pictures" / "003.png").unlink()
    lost = opened(tmp_path, makers, replace(SETTINGS, cache=str(tmp_path / "anew")))
    for one, other in zip(wanted, lost.batches(0, 0, 4), strict=False):
        kept = [key for key in one.keys if key[2] % 12 != 3]
        assert (
            other.keys == (kept or one.keys[:1])
            and other.void == (not kept)
            and (one.whole, one.last) == (other.whole, other.last)
        )
    assert "003.png" in next(iter(lost.fields["effnet"].faults.found))


def test_a_batch_that_has_lost_everything_stands_in_with_its_shape(tmp_path, makers):
    catalogue_of(tmp_path / "pictures", tmp_path / "cat", 5)
    for online in (False, True):
        settings = replace(SETTINGS, online=online, cache=str(tmp_path / "latents"))
        catalogue_of(tmp_path / "pictures", tmp_path / "cat", 5)
        stream = opened(tmp_path, makers, settings)
        piece = stream.order(1).pieces(np.array([1]), Ranks())[0]
        whole = stream.read(piece, 0, 0)
        if online:
            (tmp_path / "pictures" / "001.png").unlink()
        else:
            stream.fields["effnet"].places[0, 1] = -1
        empty = stream.read(piece, 0, 0)
        assert empty.void and not whole.void and empty.keys == whole.keys
        assert {name: (v.shape, v.dtype) for name, v in empty.fields.items()} == {
            n: (v.shape, v.dtype) for n, v in whole.fields.items()
        }


def test_latents_that_nobody_made_are_counted_before_the_run(home, makers, tmp_path):
    data = read_data(str(home / "cat"), SETTINGS, str(home / "memory"))
    with pytest.raises(UserError, match=r"11 pictures cannot be read: 000\.png \(no latents\)"):
        open_data(data, replace(SETTINGS, skip=10), makers, str(tmp_path / "empty"))


def test_the_identity_of_a_run_follows_its_pictures_captions_and_effnet(home, makers, tmp_path):
    torch.manual_seed(1)
    other = replace(makers, effnet=EffNetEncoder(SIZES["tiny"].effnet).eval())
    names = {
        opened(home, makers).identity,
        opened(home, makers, replace(SETTINGS, captions=CaptionSettings(keep_tags=1))).identity,
        opened(home, makers, replace(SETTINGS, where="row < 20")).identity,
        opened(home, makers, replace(SETTINGS, last="fill")).identity,
        opened(home, other, replace(SETTINGS, cache=str(tmp_path))).identity,
        opened(home, makers, replace(SETTINGS, buckets=replace(SETTINGS.buckets, cells=2))).identity,
    }
    assert len(names) == 6 and opened(home, makers).identity in names


def test_a_second_start_maps_the_table_that_the_first_one_wrote(home, makers):
    opened(home, makers)
    written = sorted((home / "memory").glob("samples-v1-*.arrow"))
    stamps = [path.stat().st_mtime_ns for path in written]
    opened(home, makers)
    assert written and stamps == [path.stat().st_mtime_ns for path in written]


def test_held_out_pictures_are_in_the_other_stream_and_keep_their_latents(home, makers):
    settings = replace(SETTINGS, held_out=0.3)
    train, held = opened(home, makers, settings), opened(home, makers, settings, held=True)
    paths = [{stream.samples.path(row) for row in range(len(stream.samples))} for stream in (train, held)]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == COUNT and paths[1]
    assert next(held.batches(0, 0, 2)).fields["effnet"].shape[1] == 16


def test_weights_and_masks_come_along_where_a_subset_has_them(tmp_path, makers):
    for number in range(4):
        paint(tmp_path / "set" / "img" / "2_a" / f"{number}.png", number, (128, 64))
    for number in range(8):
        paint(tmp_path / "set" / "reg" / "1_a" / f"r{number}.png", number + 9, (128, 64))
    settings = replace(SETTINGS, prior_loss_weight=0.25)
    data = read_data(str(tmp_path / "set"), settings, str(tmp_path / "memory"))
    prepare(data, settings, makers, str(tmp_path / "latents"), Ranks(), lambda *told: None)
    stream = open_data(data, settings, makers, str(tmp_path / "latents"))
    batch = next(stream.batches(0, 0, 16))
    wanted = [0.25 if "reg" in data.samples.path(number % 12) else 1.0 for _, _, number in batch.keys]
    assert batch.fields["weight"].tolist() == wanted and sorted(wanted) == [0.25] * 8 + [1.0] * 8

    mask = np.zeros((64, 128), np.uint8)
    mask[:, 64:] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "1.png")
    (tmp_path / "dataset.toml").write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "set/img/2_a"\nclass_tokens = "a"\n'
                                           'conditioning_data_dir = "masks"\n')  # fmt: skip
    data = read_data(str(tmp_path / "dataset.toml"), SETTINGS, str(tmp_path / "memory"))
    stream = open_data(data, SETTINGS, makers, str(tmp_path / "latents"))
    batch = next(stream.batches(0, 0, 4))
    for key, found in zip(batch.keys, batch.fields["mask"], strict=True):
        half = [0.0, 0.0, 1.0, 1.0] if data.samples.path(key[2] % 4).endswith("1.png") else [1.0] * 4
        assert found.shape == (1, 2, 4) and found[0, 0].tolist() == half


def halves(values: list[int]) -> Image.Image:
    """Four cells side by side, 128 x 64 px."""
    return Image.fromarray(np.repeat(np.repeat(np.array([values], np.uint8), 32, 1), 64, 0))


@pytest.mark.parametrize("kind", ["folder of a catalogue", "flat folder", "alpha"])
def test_any_data_may_have_masks_in_a_folder_or_in_their_own_transparency(tmp_path, makers, kind):
    for number in range(3):
        path = paint(tmp_path / "pictures" / f"{number:03d}.png", number, (128, 64))
        path.with_suffix(".txt").write_text("1girl")
    with Image.open(tmp_path / "pictures" / "001.png") as image:
        image.putalpha(halves([0, 255, 255, 51]))
        image.save(tmp_path / "pictures" / "001.png")
    (tmp_path / "masks").mkdir()
    halves([0, 255, 255, 51]).save(tmp_path / "masks" / "001.webp", lossless=True)
    place = tmp_path / "pictures"
    if kind == "folder of a catalogue":
        place = catalogue_of(tmp_path / "pictures", tmp_path / "cat", 3)
    settings = replace(SETTINGS, masks="alpha" if kind == "alpha" else str(tmp_path / "masks"))
    data = read_data(str(place), settings, str(tmp_path / "memory"))
    assert [note for note in data.samples.notes if "1 of 3 pictures have a mask" in note] or kind == "alpha"
    prepare(data, settings, makers, str(tmp_path / "latents"), Ranks(), lambda *told: None)
    batch = next(open_data(data, settings, makers, str(tmp_path / "latents")).batches(0, 0, 3))
    for key, found in zip(batch.keys, batch.fields["mask"], strict=True):
        masked = data.samples.path(key[2] % 3).endswith("001.png")
        assert found[0, 0].tolist() == pytest.approx([0.0, 1.0, 1.0, 0.2] if masked else [1.0] * 4)


def test_data_with_other_masks_are_other_data(home, tmp_path):
    def identity(masks: str) -> str:
        return read_data(str(home / "cat"), replace(SETTINGS, masks=masks), str(tmp_path / "memory")).samples.identity

    stem = Path(read_data(str(home / "cat"), SETTINGS, str(tmp_path / "memory")).samples.path(0)).stem
    for name, values in (("one", [0, 255, 255, 51]), ("other", [0, 0, 0, 0]), ("moved", [0, 255, 255, 51])):
        (tmp_path / name).mkdir()
        halves(values).save(tmp_path / name / f"{stem}.png")
    found = [identity(masks) for masks in ("", "alpha", str(tmp_path / "one"), str(tmp_path / "other"))]
    assert len(set(found)) == 4 and identity(str(tmp_path / "moved")) == found[2]


@pytest.mark.parametrize("pixels", [
    np.full((8, 12, 4), 51, np.uint8), np.full((8, 12, 2), 51 * 257, np.uint16),
    np.dstack([np.zeros((8, 12, 3), np.float32), np.full((8, 12), 0.2, np.float32)]),
])  # fmt: skip
def test_transparency_of_a_jpeg_xl_is_read_whatever_its_bits(pixels):
    data = bytes(imagecodecs.jpegxl_encode(pixels, lossless=True))
    assert np.unique(opacity(data, read_header(data))).tolist() == [51]
    whole = np.array([12, 8, 12, 8, 0, 0], np.int32)
    assert np.unique(fitted(data, whole, alpha="drop")).tolist() == [0 if pixels.dtype == np.float32 else 51]
    with pytest.raises(Undecodable):
        opacity(data[: len(data) // 2], read_header(data))


@pytest.mark.parametrize(("where", "says"), [("nowhere", "is no folder"), ("empty", "has a mask for none of 23 pictures")])
def test_masks_that_are_not_there_are_refused(home, tmp_path, monkeypatch, where, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"data.masks: .*{says}"):
        read_data(str(home / "cat"), replace(SETTINGS, masks=where), str(tmp_path / "memory"))


def test_pictures_come_at_the_size_that_is_drawn(home, makers):
    settings = replace(SETTINGS, buckets=BucketSettings(128, shortest=64, longest=256))
    stream = opened(home, replace(makers, fields=("pictures",)), settings)
    batch = next(stream.batches(0, 0, 2))
    assert batch.fields["pictures"].dtype == torch.uint8 and all(side % 64 == 0 for side in batch.fields["pictures"].shape[1:3])
    assert set(batch.fields) == {"pictures", "tokens", "token_mask"}


def test_what_is_worth_knowing_is_said_before_the_run(home, makers):
    stream = opened(home, makers)
    assert sum(bucket.samples for bucket in stream.sizes()) == len(stream) and stream.notes(1) == []
    assert all(side == 32 * cell for bucket in stream.sizes() for side, cell in zip(bucket.size, bucket.cells, strict=True))
    small, few = stream.notes(40)
    assert "buckets hold fewer samples than a step of 40" in small and "an epoch has 31 samples" in few
    with pytest.raises(UserError, match="none of 23 pictures"):
        opened(home, makers, replace(SETTINGS, buckets=BucketSettings(4096, scale=1.0, shortest=2048, longest=4096)))


def test_unknown_text_conventions_and_rules_are_refused_before_anything_is_encoded(home, makers):
    with pytest.raises(UserError, match=r"buckets\.rule"):
        opened(home, makers, replace(SETTINGS, buckets=BucketSettings(rule="best")))
    with pytest.raises(UserError, match=r"data\.last"):
        opened(home, makers, replace(SETTINGS, last="drop")).order(4)
    with pytest.raises(UserError, match=r"captions\.order"):
        opened(home, makers, replace(SETTINGS, captions=CaptionSettings(order="sorted")))


def test_pictures_may_be_gone_once_their_latents_are_kept(tmp_path, makers):
    catalogue_of(tmp_path / "pictures", tmp_path / "cat", 6)
    wanted = next(opened(tmp_path, makers).batches(0, 0, 4))
    (tmp_path / "pictures").rename(tmp_path / "elsewhere")
    same(next(opened(tmp_path, makers).batches(0, 0, 4)), wanted)
