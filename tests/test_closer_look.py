"""Pictures that steps open by themselves: what kills a decoder costs itself alone, and no pair is looked at twice."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chat_server import completion, serving
from PIL import Image
from test_dedupe import scene

from sotediffusion.cli.curate import read_preset
from sotediffusion.curate import catalogue, pipeline
from sotediffusion.curate.dedupe import alike
from sotediffusion.curate.dedupe.alike import Look, look_closer
from sotediffusion.curate.dedupe.looked import Looked, forget_failures, forget_looked
from sotediffusion.curate.dedupe.step import READS, DedupeSettings, DedupeStep
from sotediffusion.curate.dedupe.structure import square
from sotediffusion.curate.engine.guarded import Guarded
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.text.answers import EndpointSettings, TextSettings, shrunk_pixels
from sotediffusion.curate.text.step import TextStep


@dataclass
class Grey:
    """Pictures of one grey, from paths such as `12 kills`; each opening is a line of `log`."""

    log: Path | None = None

    def decode(self, path):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {path}\n")
        if "kills" in path:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "large" in path:
            np.ones(2**29, np.uint8)
        if "bad" in path:
            raise ValueError("unreadable: it says so")
        if "away" in path:
            raise OSError("the server is gone")
        return np.full((90, 60, 3), int(path.split()[0]), np.uint8)


def opened(log):
    found = [line.split(" ", 1)[1] for line in log.read_text().splitlines()] if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_a_picture_that_kills_or_wants_too_much_memory_is_named_and_the_next_one_opens(tmp_path):
    log = tmp_path / "log"
    guarded = Guarded(Grey(log), 2**28, square)
    for path, error, reason in (("1 kills", ValueError, "kills the decoder"), ("1 large", ValueError, "kills the decoder"),
                                ("1 bad", ValueError, "unreadable: it says so"), ("1 away", OSError, "gone")):  # fmt: skip
        with pytest.raises(error, match=reason):
            guarded.decode(path)
        assert guarded.decode("7").shape == (64, 64, 3)
    assert opened(log).count("1 kills") == 2, "it might have been something else the first time"


def test_a_decoder_outlives_the_thread_that_wanted_it(tmp_path):
    guarded, log = Guarded(Grey(tmp_path / "log"), 0, square), tmp_path / "log"
    for path in ("1", "2"):
        thread = threading.Thread(target=guarded.decode, args=(path,))
        thread.start()
        thread.join()
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 1 and len(opened(log)) == 2


def test_threads_share_few_decoders_and_each_gets_its_own_picture():
    guarded = Guarded(Grey(), 0, square)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(guarded.decode, map(str, range(40))))
    assert [picture[0, 0, 0] for picture in found] == list(range(40))
    assert len(guarded.idle) <= len(os.sched_getaffinity(0))


def rows_of(paths):
    """Rows for look_closer."""
    sizes = {"width": [60] * len(paths), "height": [90] * len(paths)}
    return pa.RecordBatch.from_pydict({"path": paths, "sha256": [f"{path:>64}" for path in paths], **sizes})


def look(place, paths, source, reached=None):
    pairs = np.array([(0, other) for other in range(1, len(paths))])
    return look_closer(pairs, rows_of(paths), Look(source, Looked(Store(place / "cat")), reached), False)


def stop_at(log, most):
    """A source that kills its whole process."""

    class Deadly(Grey):
        def decode(self, path):
            picture = super().decode(path)
            if len(log.read_text().splitlines()) > most:
                os.kill(os.getpid(), signal.SIGKILL)
            return picture

    return Deadly(log)


def look_and_die(place, paths):
    alike._AT_ONCE = 4
    look(place, paths, stop_at(place / "log", 13))


def test_what_a_closer_look_has_found_survives_kill_9_and_is_not_looked_at_again(tmp_path, monkeypatch):
    paths, log = [str(number) for number in range(30)], tmp_path / "log"
    process = multiprocessing.get_context("spawn").Process(target=look_and_die, args=(tmp_path, paths))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    opened(log)
    monkeypatch.setattr(alike, "_AT_ONCE", 4)
    found = look(tmp_path, paths, Grey(log))
    again = opened(log)
    assert not {"1", "2", "3", "4", "5", "6", "7", "8"} & set(again) and {"9", "29"} <= set(again)
    assert look(tmp_path, paths, Grey(log)) == found and not opened(log)
    assert look(tmp_path, [*paths, "30"], Grey(log)).folded == found.folded and sorted(opened(log)) == ["0", "30"]
    assert found == look(tmp_path / "unbroken", paths, Grey())


def test_of_a_refused_picture_no_finding_is_kept(tmp_path):
    paths, log = ["0", "1", "2", "3 bad"], tmp_path / "log"
    assert look(tmp_path, paths, Grey(log)).bad == {3: "unreadable: it says so"}
    forget_looked(Store(tmp_path / "cat"), {f"{path:>64}" for path in ("1", "3 bad")})
    on_file = b"".join(path.read_bytes() for path in (tmp_path / "cat").rglob("*.arrow"))
    assert f"{'2':>64}".encode() in on_file and not [name for name in ("1", "3 bad") if f"{name:>64}".encode() in on_file]


def test_a_picture_out_of_reach_costs_the_look_nothing_and_is_not_held_against_its_content(tmp_path):
    paths, log, store = ["0", "1", "2 away"], tmp_path / "log", Store(tmp_path / "cat")
    found = look(tmp_path, paths, Grey(log))
    assert found.bad == {2: "unreadable: the server is gone"} and len(opened(log)) == 3
    assert look(tmp_path, paths, Grey(log)).bad == found.bad and sorted(opened(log)) == ["0", "2 away"], "it may be there by now"
    forget_failures(store, every=False)
    forget_failures(store, every=False)
    looked = Looked(store)
    assert looked.retried() == 1 and DedupeStep(looked=looked).identity()["retried"] == 1
    assert look(tmp_path, paths[:2], Grey(log)).folded == found.folded and not opened(log)


def test_a_file_deleted_between_scan_and_closer_look_is_left_out_until_it_is_back(tmp_path):
    pile = tmp_path / "pile"
    pile.mkdir()
    scene(1).save(pile / "whole.png")
    scene(1).crop((35, 20, 870, 1075)).save(pile / "part.png")
    settings = read_preset("card", ("filter.min_bytes_per_pixel={}",))
    order = pipeline.Order(str(pile), str(tmp_path / "cat"), settings, tmp_path, 1, ("score", "tag", "text"))

    def delete(progress):
        finished = progress.stage.startswith("scan") and progress.done == progress.total > 0
        if finished and (pile / "part.png").exists():
            (pile / "part.png").rename(tmp_path / "part.png")

    def reasons(report):
        pipeline.run(order, report)
        return reasons_in(tmp_path / "cat")

    assert reasons(delete) == {"whole.png": None, "part.png": "unreadable: No such file or directory"}
    (tmp_path / "part.png").rename(pile / "part.png")
    assert reasons(lambda _: None) == {"whole.png": None, "part.png": "crop: of whole.png"}
    assert pipeline.run(order, lambda _: None)[0] is None


def test_a_picture_that_cannot_be_opened_is_left_out_and_its_copies_are_grouped_without_it(tmp_path):
    hashes = [bytes(32), b"\1" + bytes(31), b"\1\xff\xff" + bytes(29)]  # the first two are copies, the third is looked at
    columns = {"row": [0, 1, 2], "path": ["1 kills", "1", "250"], "sha256": [f"{n:064}" for n in range(3)], "bytes": [9] * 3,
               "format": ["png"] * 3, "width": [60] * 3, "height": [90] * 3, "phash": hashes, "blank": [False] * 3,
               "luma_mean": [1.0] * 3, "luma_std": [9.0] * 3, "chroma": [2.0] * 3}  # fmt: skip
    types = {"phash": pa.binary(32), "luma_mean": pa.float32(), "luma_std": pa.float32(), "chroma": pa.float32()}
    hashes[0] = b"\3" + bytes(31)
    rows = pa.record_batch([pa.array(columns[name], types.get(name)) for name in READS], names=list(READS))
    step = DedupeStep(DedupeSettings(), Guarded(Grey(), 0, square))
    assert [row["drop_dedupe"] for row in step.process(rows).to_pylist()] == ["kills the decoder", None, None]
    by_hash = DedupeStep(DedupeSettings(candidates=0, crops=0), Guarded(Grey(), 0, square)).process(rows).to_pylist()
    assert by_hash[1]["drop_dedupe"] == "duplicate: of 1 kills", "which is what would have become of it"


def test_what_killed_a_decoder_is_opened_again_when_that_is_asked_for_and_not_before(tmp_path):
    paths, log, store = ["0", "1", "2 bad"], tmp_path / "log", Store(tmp_path / "cat")
    found = look(tmp_path, paths, Grey(log))
    opened(log)
    forget_failures(store, every=False)
    assert look(tmp_path, paths, Grey(log)) == found and not opened(log) and not Looked(store).retried()
    forget_failures(store, every=True)
    assert look(tmp_path, paths, Grey(log)) == found, "and what was found of pairs stays"
    assert sorted(opened(log)) == ["0", "2 bad"]
    assert Looked(store).retried() == 1


def test_a_run_sets_aside_what_takes_more_memory_than_a_decoder_has(tmp_path):
    (tmp_path / "pile").mkdir()
    scene(1).save(tmp_path / "pile" / "whole.png")
    scene(1).crop((35, 20, 870, 1075)).resize((10000, 12600)).save(tmp_path / "pile" / "huge.jpg", quality=40)
    scene(2).save(tmp_path / "pile" / "other.png")
    settings = read_preset("card", ("run.memory_gib=0.35", "scan.max_pixels=130000000", "filter.min_bytes_per_pixel={}"))
    order = pipeline.Order(str(tmp_path / "pile"), str(tmp_path / "cat"), settings, tmp_path, 1, ("score", "tag", "text"))
    pipeline.run(order, lambda _: None)
    bomb = "bomb: it takes more memory than there is for one picture"
    assert reasons_in(tmp_path / "cat") == {"whole.png": None, "other.png": None, "huge.jpg": bomb}
    order = replace(order, settings=read_preset("card", ("scan.max_pixels=130000000", "filter.min_bytes_per_pixel={}")))
    assert pipeline.run(order, lambda _: None)[0] is None and reasons_in(tmp_path / "cat")["huge.jpg"] == bomb
    pipeline.run(replace(order, again=True), lambda _: None)
    assert sorted(map(str, reasons_in(tmp_path / "cat").values())) == ["None", "None", "crop: of huge.jpg"]
    assert pipeline.run(replace(order, again=True), lambda _: None)[0] is None, "nothing is left to open again"


def reasons_in(place):
    return {row["path"]: row["reason"] for row in catalogue.read(place).to_table().to_pylist()}


def test_text_is_read_in_all_pictures_but_the_one_that_kills_its_decoder(tmp_path):
    see = Guarded(Grey(), 2**28, partial(shrunk_pixels, long_side=30)).decode
    with serving(lambda request, times: completion("fine")) as (url, chat):
        endpoint = EndpointSettings(url=url, backoff=0.01, concurrency=3)
        step = TextStep(TextSettings(backend="endpoint", model="reader", endpoint=endpoint), see, tmp_path)
        step.setup()
        paths = ["1", "2 kills", "4"]
        rows = [{"path": path, "sha256": path, "rating": "general", "general": ["english text"]} for path in paths]
        found = step.process(pa.RecordBatch.from_pylist(rows)).to_pylist()
    assert [row["text"] for row in found] == ["fine", None, "fine"]
    assert [row["text_error"] for row in found] == [None, "unreadable: kills the decoder", None]


def test_the_steps_of_a_chain_that_open_pictures_do_so_under_the_decoders_limit(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    settings = read_preset("card", ("text.backend=endpoint", "prose.backend=endpoint", "text.long_side=77"))
    places = pipeline.Places(pipeline_source(tmp_path), Store(tmp_path / "cat"), tmp_path, {}, 12345)
    steps = {step.name: step for step in pipeline.chain(settings, places, ("score", "tag"))}
    text, prose, dedupe = steps["text"].see.__self__, steps["prose"].see.__self__, steps["dedupe"].source
    assert all(isinstance(one, Guarded) and one.memory == 12345 for one in (text, prose, dedupe))
    assert text.make(np.zeros((154, 50, 3), np.uint8)).shape == (77, 25, 3)


def pipeline_source(place):
    from sotediffusion.curate.scan.sources import open_source

    return open_source(str(place))
