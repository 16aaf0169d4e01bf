"""The engine on Ray: the same files as on one machine, nodes that are lost, and refusals in one sentence."""

import os
import secrets
import sys
from pathlib import Path

import pytest
from curate_run import by_path, calls, curate, steps_of, write
from curate_steps import Folder

from sotediffusion.curate.engine import cluster
from sotediffusion.curate.engine.cluster import Cluster
from sotediffusion.curate.engine.processes import Means
from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError

# Ray reads these when it is imported, and keeps the token for as long as the process lives.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
ray = pytest.importorskip("ray", reason="the extra [cluster] is not installed")


@pytest.fixture(autouse=True)
def _paths(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    yield
    ray.shutdown()


def on(place, address, workers=4):
    return Cluster(Means(Store(place / "cat"), Folder(place / "src"), workers), address)


def test_ray_on_one_machine_gives_what_the_process_pool_gives(tmp_path):
    odd = {3: "short", 5: "kills scan", 7: "forbidden", 9: "kills decode"}
    write(tmp_path, {n: f"picture {n} of many" for n in range(40)} | odd)
    curate(tmp_path, executor=on(tmp_path, "local"))
    assert ray.is_initialized() is False
    found = by_path(tmp_path)
    calls(tmp_path)
    _, version = curate(tmp_path)
    assert version is None and not calls(tmp_path), "the pool finds all that Ray has finished"
    curate(tmp_path, out=tmp_path / "pool")
    assert found == by_path(tmp_path, out=tmp_path / "pool")


def test_a_lost_node_costs_nothing_that_was_finished(tmp_path):
    from ray.cluster_utils import Cluster as Nodes

    write(tmp_path, {n: f"slow picture {n}" for n in range(120)})
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2})
    other = nodes.add_node(num_cpus=2)
    seen = []

    def watch(progress):
        if progress.done > 20 and not seen:
            seen.append(progress.done)
            nodes.remove_node(other, allow_graceful=False)

    try:
        curate(tmp_path, executor=on(tmp_path, nodes.address), report=watch)
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert seen and len(by_path(tmp_path)) == 120 and not any(row["dropped"] for row in by_path(tmp_path).values())
    calls(tmp_path)
    _, version = curate(tmp_path)
    assert version is None and not calls(tmp_path)


def test_a_step_that_no_node_has_a_place_for_fails_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PLACEMENT", 8.0)
    write(tmp_path, {n: f"picture {n} of many" for n in range(4)})
    steps = steps_of(tmp_path)
    steps[4].gpus = 1
    with pytest.raises(UserError, match=r"ray: no place for a worker of see.* \(\d+ CPU, 1 GPU\) within 8 s"):
        curate(tmp_path, steps=steps, executor=on(tmp_path, "local", 2))


def test_an_output_that_workers_cannot_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_sees", _blind)
    write(tmp_path, {0: "one picture of many"})
    with pytest.raises(UserError, match="is not seen on node .* all nodes share"):
        curate(tmp_path, executor=on(tmp_path, "local", 2))
    assert not list((tmp_path / "cat").glob("probe*"))


def _blind(store, name):
    return None
