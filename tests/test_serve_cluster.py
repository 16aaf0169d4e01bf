"""Serving on a Ray cluster, its jobs in PostgreSQL: replicas come and go with the queue, and none that is lost costs a job."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgres import running
from test_serve_run import ORDER, ended, model, opened, served
from tiny import tiny_cascade

from sotediffusion.generate import generate
from sotediffusion.pictures.decode import open_picture
from sotediffusion.serve.cluster import replicas
from sotediffusion.serve.cluster.replicas import Replicas
from sotediffusion.serve.cluster.scaling import Policy, Scaling
from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import LOCAL, Job, JobState, new_id, pack
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import Request, UserError

__all__ = ["model"]  # a fixture

# Ray reads these when it is imported, and keeps the token for as long as the process lives.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_prestart_worker_first_driver": "0"}
# A busy machine takes longer than Ray waits for, and its memory is not this cluster's alone.
os.environ |= {"RAY_gcs_server_port_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
os.environ |= {"RAY_worker_register_timeout_seconds": "300", "RAY_memory_monitor_refresh_ms": "0"}
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.integers(1, 3), st.integers(0, 5), st.integers(0, 8))
def test_more_replicas_come_at_once_and_fewer_only_after_a_calm(queue: list[int], least: int, more: int, places: int) -> None:
    policy, calm = Policy(Scaling(least, least + more, each=8, calm_s=5)), 5
    called_for = [min(max(-(-jobs // 8), least), least + more) for jobs in queue]
    for now, jobs in enumerate(queue):
        wanted = policy.wanted(jobs, places, now)
        assert wanted == max(called_for[max(now - calm + 1, 0) : now + 1])
    idle = [policy.wanted(0, places, len(queue) + n) for n in range(calm)]
    assert idle == sorted(idle, reverse=True) and idle[-1] == least
    assert Policy(Scaling(least)).wanted(10**6, places, 0) == max(places, least)


def test_settings_that_cannot_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({"least": 0}, {"least": 3, "most": 2}, {"each": 0}, {"calm_s": -1}):
        with pytest.raises(UserError, match="scaling"):
            Scaling(**wrong)
    with pytest.raises(UserError, match="SQLite, which other machines cannot open; set SOTE_JOBS"):
        opened(tmp_path, monkeypatch, ray="127.0.0.1:1")
    with pytest.raises(UserError, match="give one of them"):
        opened(tmp_path, monkeypatch, ray="127.0.0.1:1", worker_here=False)
    gateway = opened(tmp_path, monkeypatch, worker_here=False)
    assert gateway.keeper.workers is None and gateway.keeper.drained and gateway.house.ready()


@pytest.fixture(scope="module")
def jobs() -> Iterator[str]:
    with running() as server:
        yield server.url


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A node of four CPUs."""
    from ray.cluster_utils import Cluster

    bare = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True, "object_store_memory": 2**27}
    cluster = Cluster()
    node = cluster.add_node(wait=False, num_cpus=4, num_gpus=0, **bare)
    cluster._wait_for_node(node, timeout=300)
    yield cluster.address
    cluster.shutdown()


class Place:
    """The stores and the settings of workers on them."""

    def __init__(self, folder: Path, jobs: str, model: Path):
        self.store, self.shelf = JobStore(Database(jobs)), Shelf(folder / "pictures")
        self.settings = WorkerSettings(jobs, str(folder / "pictures"), {"tiny": str(model)}, dtype="float32", threads=1)

    def submit(self, **more: Any) -> str:
        request = Request(**(ORDER | more))
        return self.store.submit(Job(new_id(), LOCAL, pack(request, None), "tiny")).id

    def picture(self, id: str) -> bytes:
        job = self.store.get(id)
        assert job is not None and job.state == JobState.SUCCEEDED and job.pictures is not None and len(job.pictures) == 1
        return self.shelf.read(job.pictures[0].name)


@pytest.fixture
def place(tmp_path: Path, jobs: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for patience in ("ANSWER_S", "PLACEMENT_S"):
        monkeypatch.setattr(replicas, patience, 600.0)
    return Place(tmp_path, jobs, model)


def until(replicas: Replicas, true: Callable[[], bool], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, replicas.trouble or "it did not come to pass"
        replicas.tick()
        replicas.listen(0.1)


@pytest.mark.system
def test_one_becomes_two_while_the_queue_is_long_and_a_lost_one_costs_no_job(place: Place, address: str) -> None:
    import ray

    ids = [place.submit(seed=n) for n in range(6)]
    told: list[str] = []
    cluster = Replicas(address, lambda device: place.settings, place.store, Scaling(most=2, each=3, calm_s=1))
    try:
        cluster.on_ended = told.append
        assert len(cluster.placed) == 1 and (cluster.cpus, cluster.gpus, cluster.places) == (1, 0, 4)
        until(cluster, lambda: len(cluster.placed) == 2)
        until(cluster, lambda: cluster.ready)
        ray.kill(cluster.placed[0].handle, no_restart=False)
        until(cluster, lambda: all(job.state.ended for job in place.store.find(LOCAL)))
        until(cluster, lambda: len(cluster.placed) == 1)
        until(cluster, lambda: cluster.ready)
        last = place.submit(seed=9)
        until(cluster, lambda: last in told)
        cluster.stop()
        until(cluster, lambda: cluster.over)
    finally:
        cluster.kill()
    assert not ray.is_initialized()
    pictures = [place.picture(id) for id in [*ids, last]]
    (alone,) = generate(tiny_cascade(), Request(**(ORDER | {"seed": 9})))
    assert open_picture(pictures[-1]).size == alone.image.size


@pytest.mark.system
def test_what_the_nodes_lack_is_said_in_one_sentence(place: Place, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def refused(why: str, scaling: Scaling = Scaling(), to: str = address, **wrong: Any) -> None:
        with pytest.raises(UserError, match=why) as caught:
            Replicas(to, lambda device: replace(place.settings, **wrong), place.store, scaling)
        assert caught.value.field == "ray" and "\n" not in str(caught.value)

    refused("node .* does not see the pictures in memory://shelf; set SOTE_PICTURES", shelf="memory://shelf")
    refused("node .* has no /nowhere/model", models={"tiny": "/nowhere/model"})
    refused("no cluster answers at nowhere.invalid:1", to="nowhere.invalid:1")
    monkeypatch.setattr(replicas, "PLACEMENT_S", 2.0)
    refused(r"no place for a worker \(3 CPU, 0 GPU\) within 2 s", Scaling(least=2), threads=3)


@pytest.mark.system
def test_a_gateway_without_worker_serves_what_the_cluster_draws(
    tmp_path: Path, jobs: str, address: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOTE_JOBS", jobs)
    monkeypatch.setenv("SOTE_PICTURES", str(tmp_path / "pictures"))
    with (
        served(tmp_path / "one", model, "--ray", address) as (first, _),
        served(tmp_path / "two", model, "--no-worker") as (_, door),
    ):
        job = ended(door, door.post("/api/v1/jobs", json=ORDER).json()["id"])
        assert job["state"] == "succeeded"
        content = door.get(job["pictures"][0]["url"]).content
        assert open_picture(content).size == (64, 64)
        first.terminate()
        assert first.wait(600) == 0
        assert door.get("/readyz").status_code == 200
