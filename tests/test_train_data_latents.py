"""Claims about kept latents: made once of a picture, a cut and weights, whole after any death, and what is broken is named."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from training_pictures import catalogue_of, paint

from sotediffusion.buckets import BucketSettings, fit_all
from sotediffusion.models.cascade import SIZES
from sotediffusion.models.effnet import EffNetEncoder
from sotediffusion.pictures.headers import Undecodable
from sotediffusion.train import fill as filling
from sotediffusion.train.fields import CachedLatents
from sotediffusion.train.fill import Encoder, Loader, fill, wanted
from sotediffusion.train.fit import Faults, FitSettings, fitted, fitted_mask, output_fit, varied
from sotediffusion.train.latents import LatentCache, keys_of
from sotediffusion.train.order import Ranks
from sotediffusion.train.readers.catalogue import read_catalogue
from sotediffusion.train.stream import fits_of
from sotediffusion.types import UserError

BUCKETS = BucketSettings(128, scale=1.0, shortest=64, longest=256)
COUNT = 14


def network(seed=0):
    torch.manual_seed(seed)
    return EffNetEncoder(SIZES["tiny"].effnet).eval()


@pytest.fixture
def place(tmp_path):
    return catalogue_of(tmp_path / "pictures", tmp_path / "cat", COUNT)


class Made:
    """A catalogue's pictures and a cache, filled, with a count of the pictures that EffNet looked at."""

    def __init__(self, place, cache, settings=FitSettings(), seed=0, skip=0):
        self.samples = read_catalogue(str(place))
        self.fits = fits_of(self.samples, BUCKETS)
        self.network, self.faults, self.settings = network(seed), Faults(skip), settings
        self.encoded = 0
        self.network.register_forward_hook(self.count)
        self.encoder = Encoder(self.network, settings)
        self.cache = LatentCache(str(cache), self.encoder.about)
        self.loader = Loader(self.samples, settings, self.faults, checked=True)

    def count(self, module, inputs, output):
        self.encoded += len(output)

    def fill(self, ranks=Ranks()):
        fill(self.samples, self.fits, self.cache, self.encoder, self.loader, ranks, lambda *told: None)
        return self

    def latents(self):
        """All of them, row by row."""
        places = self.cache.find(keys_of(self.samples.content, self.fits, np.zeros(len(self.fits), bool)))
        return [self.cache.read(places[row : row + 1])[0] if places[row] >= 0 else None for row in range(len(places))]

    def stream_field(self):
        """What a stream reads them with."""
        return CachedLatents(self.samples, self.fits, self.cache, self.faults, False)


def shards(cache):
    return sorted(path.name for path in Path(cache).glob("*.npy"))


def test_latents_are_effnets_of_the_fitted_picture_made_once(place, tmp_path):
    made = Made(place, tmp_path / "latents").fill()
    assert made.encoded == COUNT
    for row, latent in enumerate(made.latents()):
        data = (tmp_path / "pictures" / made.samples.path(row)).read_bytes()
        pixels = torch.from_numpy(fitted(data, made.fits[row])).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            torch.testing.assert_close(torch.from_numpy(latent).float(), made.network(pixels)[0], atol=2e-3, rtol=2e-3)
    again = Made(place, tmp_path / "latents").fill()
    assert again.encoded == 0 and len(shards(tmp_path / "latents")) == len({tuple(fit[:2]) for fit in made.fits.tolist()})


def test_latents_of_other_weights_or_another_preparation_are_refused_by_name(place, tmp_path):
    Made(place, tmp_path / "latents").fill()
    with pytest.raises(UserError, match=r"latents holds latents made with EffNet \w+ and not \w+"):
        Made(place, tmp_path / "latents", seed=1)
    with pytest.raises(UserError, match="alpha white and not drop"):
        Made(place, tmp_path / "latents", FitSettings(alpha="drop"))


def test_a_changed_picture_is_encoded_again_and_no_other(place, tmp_path):
    first = Made(place, tmp_path / "latents").fill()
    paint(tmp_path / "pictures" / "004.png", 99, (64, 256))
    catalogue_of(tmp_path / "pictures", place, COUNT)
    second = Made(place, tmp_path / "latents").fill()
    assert second.encoded == 1
    pairs = zip(first.latents(), second.latents(), strict=True)
    assert [row for row, (one, other) in enumerate(pairs) if not np.array_equal(one, other)] == [4]


def test_another_resolution_adds_its_latents_beside_the_others(place, tmp_path):
    made = Made(place, tmp_path / "latents").fill()
    made.fits = fits_of(made.samples, BucketSettings(96, scale=1.0, shortest=32, longest=256))
    made.fill()
    assert made.encoded == 2 * COUNT and Made(place, tmp_path / "latents").fill().encoded == 0


def test_a_shard_cut_short_is_named(place, tmp_path):
    made = Made(place, tmp_path / "latents").fill()
    victim = tmp_path / "latents" / shards(tmp_path / "latents")[0]
    victim.write_bytes(victim.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{victim.name} \(\d+ bytes, not \d+\).*only their pictures"):
        Made(place, tmp_path / "latents").fill()
    victim.unlink()
    victim.with_suffix(".arrow").unlink()
    again = Made(place, tmp_path / "latents").fill()
    assert 0 < again.encoded < COUNT and np.array_equal(again.latents()[0], made.latents()[0])


def test_a_shard_with_a_flipped_bit_is_named_when_its_row_is_read(place, tmp_path):
    made = Made(place, tmp_path / "latents").fill()
    for name in shards(tmp_path / "latents"):
        data = bytearray((tmp_path / "latents" / name).read_bytes())
        data[-1] ^= 1
        (tmp_path / "latents" / name).write_bytes(data)
    field, rows, upright = made.stream_field(), np.arange(COUNT), np.zeros(1, bool)
    made.faults.limit = COUNT
    found = [field.read(rows[row : row + 1], made.fits[row : row + 1], upright)[0] is None for row in range(COUNT)]
    assert found.count(True) == len(shards(tmp_path / "latents")) == len(made.faults.found)
    assert all(re.fullmatch(r"\d+x\d+-\w+\.npy, row \d+", name) for name in made.faults.found)
    made.faults.limit = 0
    with pytest.raises(UserError, match=r"\.npy, row \d+ \(damaged: delete the shard"):
        field.read(rows[found][:1], made.fits[found][:1], upright)


def test_a_run_killed_while_encoding_leaves_whole_shards_and_goes_on_after_them(place, tmp_path):
    code = (f"import os, signal, sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
            "import test_train_data_latents as t\n"
            "made = t.Made(sys.argv[1], sys.argv[2])\n"
            "writes, write = iter(range(99)), made.cache.store.write\n"
            "def dying(*what):\n"
            "    if next(writes) == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)\n"
            "    write(*what)\n"
            "made.cache.store.write = dying\n"
            "made.fill()\n")  # fmt: skip
    cache = tmp_path / "latents"
    for at in (1, 3):  # between an array and its index, of the first shard and of a later one
        killed = subprocess.run([sys.executable, "-c", code, str(place), str(cache), str(at)], capture_output=True, text=True)
        assert killed.returncode == -9, killed.stderr
    whole = Made(place, tmp_path / "whole").fill()
    resumed = Made(place, cache).fill()
    assert 0 < resumed.encoded < COUNT and shards(cache) == shards(tmp_path / "whole")
    assert all(np.array_equal(a, b) for a, b in zip(whole.latents(), resumed.latents(), strict=True))


def test_a_chunk_that_takes_long_is_written_in_parts(place, tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "SECONDS", 0.0)
    monkeypatch.setattr(filling, "GROUP", 1)
    made = Made(place, tmp_path / "latents").fill()
    assert len(shards(tmp_path / "latents")) == COUNT and None not in [latent is not None or None for latent in made.latents()]


def test_several_processes_fill_one_place_each_its_part(place, tmp_path):
    for late in (False, True):  # not seeing what the others have written, and seeing it
        cache = tmp_path / f"latents-{late}"
        parts = [Made(place, cache) for _ in range(3)]
        for rank, made in enumerate(parts):
            if not late:
                made.cache.find = lambda keys: np.full(len(keys), -1)
            made.fill(Ranks(rank, 3))
        assert sum(made.encoded for made in parts) == COUNT and all(made.encoded for made in parts)
        assert Made(place, cache).fill().encoded == 0


def test_an_object_store_keeps_latents_as_a_disk_does(place, tmp_path):
    near, far = Made(place, tmp_path / "latents").fill(), Made(place, "memory://kept/latents").fill()
    assert all(np.array_equal(a, b) for a, b in zip(near.latents(), far.latents(), strict=True))
    assert Made(place, "memory://kept/latents").fill().encoded == 0


def test_pictures_that_cannot_be_read_are_named_and_skipped_up_to_the_limit(place, tmp_path):
    (tmp_path / "pictures" / "000.png").unlink()
    (tmp_path / "pictures" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    paint(tmp_path / "pictures" / "002.png", 77, (160, 96))
    made = Made(place, tmp_path / "latents", skip=3).fill()
    assert made.encoded == COUNT - 3 and [latent is None for latent in made.latents()[:4]] == [True, True, True, False]
    assert made.faults.found["000.png"] == "missing" and "changed" in made.faults.found["002.png"]
    assert made.faults.sentence().startswith("3 pictures cannot be read: ")
    with pytest.raises(UserError, match=r"data\.skip: 3 pictures cannot be read: .*2 may be skipped"):
        Made(place, tmp_path / "other", skip=2).fill()


def test_mirrored_latents_are_kept_beside_the_others(place, tmp_path):
    made = Made(place, tmp_path / "latents", FitSettings(flip=True)).fill()
    rows, mirrored, keys = wanted(made.samples, made.fits, True)
    assert made.encoded == len(keys) == 2 * COUNT and (made.cache.find(keys) >= 0).all()
    plain = Made(place, tmp_path / "latents").fill()
    assert plain.encoded == 0


def test_a_picture_that_is_there_twice_is_encoded_once(tmp_path):
    for number in range(4):
        paint(tmp_path / "pictures" / f"{number:03d}.png", number % 2, (128, 128))
    made = Made(catalogue_of(tmp_path / "pictures", tmp_path / "cat", 4), tmp_path / "latents").fill()
    assert made.encoded == 2 and np.array_equal(made.latents()[0], made.latents()[2])


def test_effnet_that_makes_no_numbers_is_told_with_the_picture(place, tmp_path):
    made = Made(place, tmp_path / "latents")
    made.network.mapper[0].weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"no numbers of \d+\.png"):
        made.fill()
    assert not shards(tmp_path / "latents")


def fit_of(size, settings):
    return fit_all(np.array([size[0]]), np.array([size[1]]), settings)[0]


def png(image, **more):
    from io import BytesIO

    file = BytesIO()
    image.save(file, "png", **more)
    return file.getvalue()


def test_a_picture_is_scaled_by_area_and_cut_in_the_middle():
    image = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    settings = BucketSettings(256, "kohya", scale=1.0, cells=2, shortest=64, longest=512)
    fit = fit_of((300, 400), settings)
    width, height, across, down, left, top = fit.tolist()
    wanted = cv2.resize(image, (across, down), interpolation=cv2.INTER_AREA)[top : top + height, left : left + width]
    found = fitted(png(Image.fromarray(image)), fit)
    assert np.array_equal(found, wanted) and np.array_equal(
        fitted(png(Image.fromarray(image)), fit, mirrored=True), wanted[:, ::-1]
    )


def test_transparency_lies_on_white_or_is_dropped_as_kohya_does_and_pictures_stand_upright():
    image = np.zeros((64, 128, 4), np.uint8)
    image[:, :, 0] = 200
    data = png(Image.fromarray(image))
    fit = fit_of((128, 64), BucketSettings(128, scale=1.0, shortest=64, longest=256))
    assert (fitted(data, fit) == 255).all()
    assert (fitted(data, fit, alpha="drop") == [200, 0, 0]).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(Image.fromarray(image[:, :, :3]), exif=exif)
    tall = fit_of((64, 128), BucketSettings(128, scale=1.0, shortest=64, longest=256))
    for alpha in ("white", "drop"):
        assert fitted(turned, tall, alpha=alpha, size=(64, 128)).shape == (128, 64, 3)
    with pytest.raises(Undecodable, match="it is 64x128, not 128x64"):
        fitted(turned, fit, size=(128, 64))


def test_random_cuts_and_mirrors_follow_from_the_key_and_stay_inside():
    fits = np.repeat([[64, 64, 100, 90, 18, 13]], 400, 0).astype(np.int32)
    keys = [(0, 0, number) for number in range(400)]
    settings = FitSettings(crop="random", flip=True)
    cut, mirrored = varied(fits, keys, settings)
    assert np.array_equal(cut, varied(fits[::-1], keys[::-1], settings)[0][::-1])
    assert (cut[:, 4:] >= 0).all() and cut[:, 4].max() == 36 and cut[:, 5].max() == 26 and 150 < mirrored.sum() < 250
    plain, none = varied(fits, keys, FitSettings())
    assert np.array_equal(plain, fits) and not none.any()


def test_a_mask_is_cut_as_its_picture_and_counted_in_cells():
    mask = np.zeros((128, 256), np.uint8)
    mask[:, 128:] = 255
    fit = np.array([128, 64, 128, 64, 0, 0], np.int32)
    found = fitted_mask(png(Image.fromarray(mask)), fit)
    assert found.shape == (1, 2, 4) and found[0, 0].tolist() == [0, 0, 1, 1]
    assert fitted_mask(png(Image.fromarray(mask)), fit, mirrored=True)[0, 0].tolist() == [1, 1, 0, 0]


def test_what_is_drawn_is_four_thirds_of_what_effnet_sees():
    fits = fit_all(np.array([1536, 3000]), np.array([1024, 2000]), BucketSettings((1536, 1024), cells=3))
    drawn = output_fit(fits, 0.75)
    assert drawn[:, :2].tolist() == [[1536, 1024], [1536, 1024]]
    assert (drawn[:, 2:4] >= drawn[:, :2]).all() and (drawn[:, 4:] + drawn[:, :2] <= drawn[:, 2:4]).all()


def test_the_index_of_a_shard_says_what_its_latents_are_made_of(place, tmp_path):
    Made(place, tmp_path / "latents").fill()
    about = json.loads((tmp_path / "latents" / "latents.json").read_text())
    assert set(about) == {"EffNet", "preprocessing", "alpha", "dtype"}
    array = np.load(tmp_path / "latents" / shards(tmp_path / "latents")[0])
    assert array.dtype == np.float16 and array.ndim == 4
