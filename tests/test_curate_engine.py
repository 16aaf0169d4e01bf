"""The engine of curation: what is done is not done again, whatever is killed, and refused pictures leave but a hash."""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path

import lance
import numpy as np
import pytest
from curate_run import by_path, calls, curate, steps_of, write
from curate_steps import Count, Folder, LatePolicy, Length, Policy, Praise, Read, Repeat, See

from sotediffusion.curate import catalogue
from sotediffusion.curate.again import forget_killers
from sotediffusion.curate.engine import local, processes, work
from sotediffusion.curate.engine.lock import only_writer
from sotediffusion.curate.engine.runner import stages_of
from sotediffusion.curate.engine.shards import SHARD, Placed
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.engine.work import Stage
from sotediffusion.types import UserError


def texts(count, **special):
    return {number: f"picture {number} of many" for number in range(count)} | {int(k[1:]): v for k, v in special.items()}


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def test_every_picture_ends_with_its_columns_or_a_reason(tmp_path):
    write(tmp_path, texts(12, _2="unreadable, it says", _3="short", _5="picture 1 of many", _7="bad pixels, these are"))
    runner, version = curate(tmp_path, workers=2)
    rows = by_path(tmp_path)
    assert rows["001.png"]["caption"] == "picture 1 of many 17 17.0"
    assert rows["001.png"]["reason"] is None and not rows["001.png"]["dropped"]
    assert {path: row["reason"] for path, row in rows.items() if row["dropped"]} == {
        "002.png": "unreadable: it says so", "003.png": "too short: 5", "005.png": "same as: 1",
        "007.png": "unreadable: bad pixels",
    }  # fmt: skip
    assert rows["007.png"]["drop_decode"] == "unreadable: bad pixels" and rows["003.png"]["seen"] is None
    assert rows["005.png"]["caption"] is None and rows["005.png"]["group"] == 1
    assert version.kept == 8 and version.reasons == {"unreadable": 2, "too short": 1, "same as": 1}
    assert [row["row"] for row in rows.values()] == list(range(12))


def test_a_second_run_does_no_work(tmp_path):
    write(tmp_path, texts(20, _3="short"))
    curate(tmp_path)
    assert sum(calls(tmp_path).values()) > 60
    before = files_in(tmp_path / "cat")
    _, version = curate(tmp_path)
    assert version is None and not calls(tmp_path)
    assert {name for name, when in files_in(tmp_path / "cat").items() if before.get(name) != when} <= {"run.lock"}


def test_more_pictures_are_only_new_work(tmp_path):
    write(tmp_path, texts(8))
    curate(tmp_path)
    calls(tmp_path)
    write(tmp_path, {8: "one more picture", 9: "and another one"})
    _, version = curate(tmp_path)
    done = calls(tmp_path)
    assert {line for line in done if line.startswith(("scan", "see", "filter"))} == {
        f"{step} {number:03d}.png" for step in ("scan", "see", "filter") for number in (8, 9)
    }
    assert version.rows == 10 and len(by_path(tmp_path)) == 10


def test_one_more_picture_brings_work_behind_the_comparison_for_itself_and_for_the_one_it_is_a_copy_of(tmp_path):
    def run():
        log, source = tmp_path / "log", Folder(tmp_path / "src")
        steps = [Read(log, source), Policy(log), Count(log), Praise(log), LatePolicy(log), Repeat(log)]
        return curate(tmp_path, steps=steps)[1]

    def parts():
        return {name for name in files_in(tmp_path / "cat" / "work") if name.startswith(("praise", "policy_tags", "repeat"))}

    (tmp_path / "src").mkdir()
    for number in range(2 * SHARD + 100):
        (tmp_path / "src" / f"{number:05d}.png").write_text(f"picture {number}")
    run()
    first, before = calls(tmp_path), parts()
    assert first["repeat 00000.png"] == 1 and {name.split("/")[-1][:7] for name in before} == {"0000000", "0000001", "0000002"}
    (tmp_path / "src" / "more.png").write_text("another picture")
    run()
    second = calls(tmp_path)
    assert {line: count for line, count in second.items() if not line.startswith("dedupe")} == dict.fromkeys(
        ("scan more.png", "praise more.png", "repeat more.png"), 1)  # fmt: skip
    assert len(parts() - before) == 3 and before <= parts()
    (tmp_path / "src" / "twin.png").write_text("picture 5000")
    version = run()
    assert {line for line in calls(tmp_path) if not line.startswith("dedupe")} == {
        "scan twin.png", "praise 05000.png", "repeat 05000.png"}  # fmt: skip
    rows = by_path(tmp_path)
    assert rows["05000.png"]["repeated"] == "liked" and rows["twin.png"]["reason"] == "same as: 5000"
    assert rows["05001.png"]["repeated"] == "plain" and by_path(tmp_path, "v2")["05000.png"]["repeated"] == "plain"
    (tmp_path / "src" / "twin.png").unlink()
    run()
    assert not [line for line in calls(tmp_path) if not line.startswith("dedupe")], "what was said without the copy still holds"
    assert by_path(tmp_path)["05000.png"]["repeated"] == "plain" and version.kept == 2 * SHARD + 101


def test_a_moved_threshold_looks_only_at_what_comes_back(tmp_path):
    write(tmp_path, texts(10, _1="tiny", _2="small", _3="smaller"))
    curate(tmp_path)
    calls(tmp_path)
    _, version = curate(tmp_path, steps=steps_of(tmp_path, least=5))
    done = calls(tmp_path)
    assert sorted(line for line in done if line.startswith("see")) == ["see 002.png", "see 003.png"]
    assert not any(line.startswith("scan") for line in done) and sum(line.startswith("filter") for line in done) == 10
    assert by_path(tmp_path)["002.png"]["seen"] == 5.0 and by_path(tmp_path, "v1")["002.png"]["seen"] is None
    _, back = curate(tmp_path)
    assert not calls(tmp_path), "what was finished under the old threshold is still there"
    assert back.name == "v3" and by_path(tmp_path) == by_path(tmp_path, "v1")


def test_a_new_model_redoes_its_own_column_alone(tmp_path):
    write(tmp_path, texts(6))
    curate(tmp_path)
    calls(tmp_path)
    steps = steps_of(tmp_path, extra=[See(tmp_path / "log", "see2", "seen2", model="a")])
    curate(tmp_path, steps=steps)
    assert {line.split()[0] for line in calls(tmp_path)} == {"see2"}
    assert by_path(tmp_path)["003.png"]["seen2"] == 17.0
    assert len(files_in(tmp_path / "cat" / "work" / "see")) == len(files_in(tmp_path / "cat" / "work" / "see2")), "one decode"


def test_pictures_that_need_several_steps_are_decoded_once(tmp_path):
    log = tmp_path / "log"
    steps = [Read(log, Folder(tmp_path / "src")), Length(log, least=0), See(log), See(log, "see2", "b"), *steps_of(tmp_path)[-2:]]
    assert [[step.name for step in stage] for stage in stages_of(steps)] == [
        ["scan", "filter"], ["see", "see2", "policy_tags"], ["compose"],
    ]  # fmt: skip


def test_steps_with_other_needs_of_a_gpu_share_one_decode_and_the_policy_goes_with_them(tmp_path):
    other, steps = See(tmp_path / "log", "see_too", "seen_too"), steps_of(tmp_path)
    steps[4].gpus = 1.0
    steps.insert(5, other)
    stage = next(stage for stage in stages_of(steps) if other in stage)
    assert [step.name for step in stage] == ["see", "see_too", "policy_tags"]
    assert Stage(tuple(Placed(step, 0, "", {}) for step in stage), "").gpus == 1


def test_a_comparison_shows_how_far_it_is_and_its_death_is_one_sentence(tmp_path):
    write(tmp_path, texts(6))
    seen = []
    (tmp_path / "kill the comparison").touch()
    with pytest.raises(UserError, match="dedupe ended by signal 11 while it compared pictures.*, or look away, and run again"):
        curate(tmp_path, report=seen.append)
    assert (1, 6) in [(progress.done, progress.total) for progress in seen if progress.stage == "dedupe"]
    (tmp_path / "kill the comparison").unlink()
    assert curate(tmp_path)[1].kept == 6


def test_gone_pictures_are_dropped_and_come_back(tmp_path):
    write(tmp_path, texts(5))
    curate(tmp_path)
    (tmp_path / "src" / "003.png").rename(tmp_path / "away")
    _, version = curate(tmp_path)
    assert by_path(tmp_path)["003.png"]["reason"].startswith("gone") and version.kept == 4
    (tmp_path / "away").rename(tmp_path / "src" / "003.png")
    calls(tmp_path)
    curate(tmp_path)
    assert by_path(tmp_path)["003.png"]["caption"] and not any(line.startswith(("scan", "see")) for line in calls(tmp_path))


def test_an_empty_or_a_wrong_folder_is_refused_and_drops_nothing(tmp_path):
    write(tmp_path, texts(3))
    curate(tmp_path)
    for path in (tmp_path / "src").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="none of the pictures"):
        curate(tmp_path)
    assert len(by_path(tmp_path)) == 3


def test_a_picture_that_kills_its_decoder_is_found_and_the_others_go_on(tmp_path):
    write(tmp_path, texts(40, _9="kills scan", _23="kills decode here"))
    curate(tmp_path)
    rows = by_path(tmp_path)
    assert {path: row["reason"] for path, row in rows.items() if row["dropped"]} == {
        "009.png": "kills the decoder", "023.png": "kills the decoder",
    }  # fmt: skip
    done = calls(tmp_path)
    assert done["scan 009.png"] >= 2
    _, version = curate(tmp_path)
    assert version is None and not calls(tmp_path)


def test_a_picture_that_goes_away_between_its_scan_and_a_model_costs_the_others_nothing(tmp_path):
    write(tmp_path, texts(20, _7="it goes away"))
    curate(tmp_path)
    rows = by_path(tmp_path)
    assert {path: row["reason"] for path, row in rows.items() if row["dropped"]} == {
        "007.png": "unreadable: gone since it was scanned",
    }  # fmt: skip
    write(tmp_path, {7: "it is back"})
    curate(tmp_path)
    assert not by_path(tmp_path)["007.png"]["dropped"]


def test_a_worker_that_dies_once_costs_no_picture(tmp_path):
    write(tmp_path, texts(20, _7="once it dies here"))
    curate(tmp_path, workers=2)
    assert not any(row["dropped"] for row in by_path(tmp_path).values())


def test_a_model_process_that_dies_is_replaced(tmp_path):
    write(tmp_path, texts(20))
    (tmp_path / "kill the model").touch()
    curate(tmp_path)
    assert all(row["seen"] for row in by_path(tmp_path).values())


class Greedy(Read):
    def process(self, rows):
        if any("wants memory" in (self.source.root / path).read_text() for path in rows.column("path").to_pylist()):
            np.ones(2**29, np.uint8)
        return super().process(rows)


def test_a_decoder_that_wants_too_much_memory_is_stopped(tmp_path):
    write(tmp_path, texts(6, _2="wants memory"))
    curate(tmp_path, steps=[Greedy(tmp_path / "log", Folder(tmp_path / "src")), *steps_of(tmp_path)[1:]], memory=2**28)
    assert {path: row["reason"] for path, row in by_path(tmp_path).items() if row["dropped"]} == {"002.png": "kills the decoder"}


def test_what_killed_its_decoder_is_opened_again_when_that_is_asked_for(tmp_path):
    write(tmp_path, texts(6, _2="wants memory", _4="kills decode here"))
    first, *others = steps_of(tmp_path)
    steps = [Greedy(first.log, first.source), *others]
    curate(tmp_path, steps=steps, memory=2**28)
    calls(tmp_path)
    forget_killers(Store(tmp_path / "cat"), steps)
    _, version = curate(tmp_path, steps=steps, memory=2**30)
    assert version.reasons == {"kills the decoder": 1}, "one that kills whatever it is given"
    assert by_path(tmp_path)["002.png"]["caption"] == "wants memory 12 12.0"
    assert {line for line in calls(tmp_path) if line.startswith(("scan", "see"))} == {
        "scan 002.png", "scan 004.png", "see 002.png",
    }  # fmt: skip


def everything_in(folder):
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


def test_what_the_policy_refuses_leaves_a_hash_and_nothing_else(tmp_path):
    write(tmp_path, texts(6))
    (tmp_path / "src" / "secret name.png").write_text("forbidden words")
    curate(tmp_path)
    content = everything_in(tmp_path / "cat")
    assert b"secret name" not in content and b"forbidden words" not in content
    (row,) = [row for row in catalogue.read(tmp_path / "cat").to_table().to_pylist() if row["dropped"]]
    assert row["reason"] == "policy" and len(row["sha256"]) == 64
    assert {name for name, value in row.items() if value is not None} == {"row", "sha256", "dropped", "reason"}


def test_a_later_refusal_erases_what_was_on_file_and_in_older_versions(tmp_path):
    write(tmp_path, texts(6))
    (tmp_path / "src" / "secret name.png").write_text("looks wrong to a tagger")
    (tmp_path / "src" / "the same.png").write_text("looks wrong to a tagger")
    steps = [step for step in steps_of(tmp_path) if step.name != "policy_tags"]
    curate(tmp_path, steps=steps, name="early")
    assert b"secret name" in everything_in(tmp_path / "cat")
    _, version = curate(tmp_path)
    content = everything_in(tmp_path / "cat")
    assert b"secret name" not in content and b"looks wrong" not in content and b"the same.png" not in content
    assert version.reasons == {"policy": 2} and [v.name for v in catalogue.versions(Store(tmp_path / "cat"))] == [version.name]
    calls(tmp_path)
    _, version = curate(tmp_path)
    assert version is None and not calls(tmp_path)


def test_another_setting_of_the_first_step_brings_no_trouble_to_what_was_refused_before(tmp_path):
    write(tmp_path, texts(8, _2="forbidden words", _5="picture 1 of many"))

    def steps(**settings):
        first, *others = steps_of(tmp_path)
        return [Read(first.log, first.source, **settings), *others]

    curate(tmp_path)
    calls(tmp_path)
    _, version = curate(tmp_path, steps=steps(tint=3))
    assert version.reasons == {"policy": 1, "same as": 1} and calls(tmp_path)["dedupe all"] == 1
    _, version = curate(tmp_path, steps=steps(tint=3))
    assert version is None and not calls(tmp_path)
    _, version = curate(tmp_path)
    assert not calls(tmp_path), "under the old setting all of it is finished"


def test_what_is_refused_by_looks_is_gone_from_the_first_step_under_every_setting(tmp_path):
    write(tmp_path, texts(6, _2="looks wrong to a tagger"))
    first, *others = steps_of(tmp_path)
    kind = [step for step in others if step.name != "policy_tags"]
    curate(tmp_path, steps=[first, *kind])
    curate(tmp_path, steps=[Read(first.log, first.source, tint=3), *kind])
    assert b"looks wrong" in everything_in(tmp_path / "cat")
    for again in range(2):
        _, version = curate(tmp_path, steps=[Read(first.log, first.source, tint=3), *others])
        assert b"looks wrong" not in everything_in(tmp_path / "cat") and (version is None) == bool(again)


@pytest.mark.parametrize("cut", ["delete", "cleanup_old_versions"])
def test_forgetting_older_versions_that_was_cut_off_is_made_good(tmp_path, monkeypatch, cut):
    write(tmp_path, texts(6, _2="looks wrong to a tagger"))
    curate(tmp_path, steps=[step for step in steps_of(tmp_path) if step.name != "policy_tags"], name="early")

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    kind = lance.LanceDataset if cut == "cleanup_old_versions" else type(catalogue.read(tmp_path / "cat").tags)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, cut, cut_off)
        curate(tmp_path)
    curate(tmp_path)
    assert b"looks wrong" not in everything_in(tmp_path / "cat")
    assert [version.name for version in catalogue.versions(Store(tmp_path / "cat"))] == ["v2"]


def test_a_dataset_that_does_not_open_is_not_taken_for_none(tmp_path):
    write(tmp_path, texts(3))
    curate(tmp_path)
    (manifest,) = (tmp_path / "cat" / "catalogue.lance" / "_versions").glob("*.manifest")
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-30])
    write(tmp_path, {3: "one more picture"})
    with pytest.raises(UserError, match="^catalogue: .* cannot be opened"):
        curate(tmp_path)
    manifest.write_bytes(whole)
    _, version = curate(tmp_path)
    assert version.name == "v2" and version.rows == 4 and len(by_path(tmp_path, "v1")) == 3


def test_a_worker_that_ends_in_the_middle_of_a_word_has_died():
    worker = processes.Worker()
    ours, theirs = socket.socketpair()
    worker.connection.close()
    worker.connection = connection.Connection(ours.detach())
    with theirs:
        theirs.sendall(struct.pack("!i", 1000) + b"half of what it had to say")
    worker.process.kill()
    with pytest.raises(processes.Died):
        worker.receive()
    worker.end()


class OnDevice(See):
    """Says which process looks on which device; the first on device 0 dies."""

    def look(self, rows, pictures):
        device = os.environ["CUDA_VISIBLE_DEVICES"]
        self.note([f"{device} {os.getpid()}"])
        time.sleep(0.05)
        if device == "0" and not (self.log.parent / "died").exists():
            (self.log.parent / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().look(rows, pictures)


def test_who_comes_for_a_dead_process_gets_its_device(tmp_path):
    write(tmp_path, texts(96))
    means = processes.Means(Store(tmp_path / "cat"), Folder(tmp_path / "src"), 2, devices=("0", "1"))
    steps = [Read(tmp_path / "log", Folder(tmp_path / "src")), OnDevice(tmp_path / "log")]
    curate(tmp_path, steps=steps, executor=local.Local(means))
    devices = {line.split()[2]: line.split()[1] for line in calls(tmp_path) if line.count(" ") == 2}
    assert sorted(devices.values()) == ["0", "0", "1"]


def test_erasing_that_was_cut_off_is_made_good(tmp_path, monkeypatch):
    write(tmp_path, texts(6))
    (tmp_path / "src" / "secret name.png").write_text("looks wrong to a tagger")

    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sotediffusion.curate.engine.runner.erase_rows", cut_off)
    with pytest.raises(KeyboardInterrupt):
        curate(tmp_path)
    assert b"secret name" in everything_in(tmp_path / "cat")
    monkeypatch.undo()
    curate(tmp_path)
    assert b"secret name" not in everything_in(tmp_path / "cat")


def start(place, workers=2):
    program = [sys.executable, str(Path(__file__).parent / "curate_run.py"), str(place), str(workers)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finished_rows(place):
    found = {}
    for step in ("scan", "see", "compose"):
        for path in (place / "cat" / "work" / step).rglob("*.arrow"):
            rows = Store(place).read_table(path.relative_to(place).as_posix(), ["row"]).column("row").to_pylist()
            found |= {(step, row): path.stat().st_mtime_ns for row in rows}
    return found


def test_kill_9_at_any_moment_loses_no_finished_shard_and_repeats_none(tmp_path, monkeypatch):
    write(tmp_path, {number: f"slow picture {number}" for number in range(64)})
    rng = random.Random(5)
    kills = 0
    before = {}
    while kills < 8:
        run = start(tmp_path)
        time.sleep(rng.uniform(0.8, 2.5))
        if run.poll() is not None:
            break
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        kills += 1
        now = finished_rows(tmp_path)
        assert before.items() <= now.items(), "what was finished stays as it was"
        before = now
    out, error = start(tmp_path).communicate(timeout=600)
    assert json.loads(out) in (64, None), error
    assert before.items() <= finished_rows(tmp_path).items()
    write(tmp_path / "unbroken", {number: f"slow picture {number}" for number in range(64)})
    for path in (tmp_path / "src").iterdir():
        about = path.stat()
        os.utime(tmp_path / "unbroken" / "src" / path.name, ns=(about.st_atime_ns, about.st_mtime_ns))
    curate(tmp_path / "unbroken", workers=2)
    assert by_path(tmp_path) == by_path(tmp_path / "unbroken")


def test_a_full_disk_stops_the_run_in_one_sentence_and_loses_nothing(tmp_path):
    write(tmp_path, texts(30))
    code = f"import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))\n" \
           f"sys.path.insert(0, {str(Path(__file__).parent)!r})"  # fmt: skip
    code += f"\nfrom pathlib import Path; from curate_run import curate; curate(Path({str(tmp_path)!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and "cannot be written" in run.stderr.splitlines()[-1]
    assert not [name for name in files_in(tmp_path / "cat") if name.endswith(".part")]
    curate(tmp_path)
    assert len(by_path(tmp_path)) == 30 and not any(row["dropped"] for row in by_path(tmp_path).values())


def test_a_catalogue_that_cannot_be_written_is_one_sentence_and_the_work_is_kept(tmp_path):
    write(tmp_path, texts(5))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / catalogue.DATASET).write_text("in the way")
    with pytest.raises(UserError, match=f"^out: .*{catalogue.DATASET} cannot be written .*run the same command again"):
        curate(tmp_path)
    (tmp_path / "cat" / catalogue.DATASET).unlink()
    calls(tmp_path)
    curate(tmp_path)
    assert len(by_path(tmp_path)) == 5 and not calls(tmp_path)


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    store = Store(tmp_path / "cat")
    with only_writer(store):
        code = "from sotediffusion.curate.engine.lock import only_writer\nfrom sotediffusion.curate.engine.store import Store\n"
        code += f"with only_writer(Store({store.root!r})): pass"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"process {os.getpid()} on" in run.stderr.splitlines()[-1]
    with only_writer(store):
        pass


def is_alive(pid):
    with suppress(OSError):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def test_workers_end_with_their_parent(tmp_path):
    write(tmp_path, {number: f"slow picture {number}" for number in range(200)})
    run = start(tmp_path)
    children = []
    for _ in range(600):
        time.sleep(0.1)
        children = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
        if len(children) >= 2:
            break
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert len(children) >= 2
    for _ in range(600):  # one that is just starting has to get as far as looking for it
        left = [pid for pid in children if is_alive(pid)]
        if not left:
            break
        time.sleep(0.1)
    assert not left


def test_attempts_narrow_a_death_down_to_one_row():
    rows = np.arange(100)
    task = work.Task(1, rows, {"scan": np.ones(100, bool)}, {})
    (again,) = local.Attempt(task, written=20, fed=30).after_death()
    assert again.strikes == 1 and len(again.task.rows) == 80
    again.fed, again.written = 15, 10
    parts = again.after_death()
    assert [(len(part.task.rows), part.strikes) for part in parts] == [(5, 0), (1, 2), (64, 0)]
    assert parts[1].task.rows.tolist() == [35]
    (last,) = parts[1].after_death()
    assert last.task.give_up == local.KILLS
    with pytest.raises(UserError, match="even unopened"):
        last.after_death()
