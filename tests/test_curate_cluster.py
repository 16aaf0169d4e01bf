"""The engine on Ray: the same files as on one machine, nodes that are lost, and refusals in one sentence."""

import os
import secrets
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from curate_run import by_path, calls, curate, steps_of, write
from curate_steps import Folder, NeverStarts

from sotediffusion.cli.curate import group
from sotediffusion.curate.engine import cluster
from sotediffusion.curate.engine.cluster import Cluster
from sotediffusion.curate.engine.processes import Luck, Means
from sotediffusion.curate.engine.store import Store
from sotediffusion.types import UserError

# Ray reads these when it is imported, and keeps the token for as long as the process lives. The last two save time: workers are
# started when they are wanted, and a node that is gone is noticed soon.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
               "RAY_prestart_worker_first_driver": "0", "RAY_health_check_period_ms": "500"}  # fmt: skip
ray = pytest.importorskip("ray", reason="the extra [cluster] is not installed")


@pytest.fixture(scope="module")
def nodes():
    """Two nodes of one CPU each, for all tests; the last one loses a node."""
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
        cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.other = cluster.add_node(num_cpus=1)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def on(place, address, workers=4):
    return Cluster(Means(Store(place / "cat"), Folder(place / "src"), workers), address)


def test_nodes_give_what_the_process_pool_gives(tmp_path, nodes):
    odd = {3: "short", 5: "kills scan", 7: "forbidden", 9: "kills decode"}
    write(tmp_path, {n: f"picture {n} of many" for n in range(20)} | odd)
    curate(tmp_path, executor=on(tmp_path, nodes.address))
    assert ray.is_initialized() is False
    found = by_path(tmp_path)
    calls(tmp_path)
    _, version = curate(tmp_path)
    assert version is None and not calls(tmp_path), "the pool finds all that Ray has finished"
    curate(tmp_path, out=tmp_path / "pool")
    assert found == by_path(tmp_path, out=tmp_path / "pool")


def test_a_step_that_no_node_has_a_place_for_fails_in_one_sentence(tmp_path, nodes, monkeypatch):
    write(tmp_path, {n: f"picture {n} of many" for n in range(4)})
    steps = steps_of(tmp_path)[:5]
    steps[4].gpus = 1

    def impatient(progress):
        if progress.stage == "dedupe":  # what comes next wants the GPU
            monkeypatch.setattr(cluster, "PLACEMENT", 1.0)

    with pytest.raises(UserError, match=r"ray: no place for a worker of see \(1 CPU, 1 GPU\) within 1 s"):
        curate(tmp_path, steps=steps, executor=on(tmp_path, nodes.address), report=impatient)


def test_nodes_on_which_nothing_starts_end_the_run_in_one_sentence(tmp_path, nodes, monkeypatch):
    write(tmp_path, {0: "one picture of many"})
    monkeypatch.setattr(cluster, "Hand", NeverStarts)
    monkeypatch.setattr(cluster, "Luck", lambda limit: Luck(2))
    with pytest.raises(UserError, match=r"workers: 2 workers in a row died in scan\+policy.* and finished nothing"):
        curate(tmp_path, executor=on(tmp_path, nodes.address))


def test_a_wrong_address_is_said_at_once(tmp_path):
    nobody = on(tmp_path, "127.0.0.1:1")
    with pytest.raises(UserError, match=r"ray: no cluster answers at 127\.0\.0\.1:1 .*; check the address"), nobody:
        pass


def test_a_cluster_without_tokens_is_refused_and_the_command_asks_for_them_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setattr(ray._raylet, "get_authentication_mode", lambda: ray._raylet.AuthenticationMode.DISABLED)
    with pytest.raises(UserError, match="ray: without tokens .* RAY_AUTH_MODE=token"), on(tmp_path, "127.0.0.1:1"):
        pass
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    said = CliRunner().invoke(group, ["run", str(tmp_path), "--out", str(tmp_path / "cat"), "--ray", "nowhere:1", "--skip", "no"])
    assert said.exit_code and os.environ["RAY_AUTH_MODE"] == "token"


def test_a_lost_node_costs_nothing_that_was_finished(tmp_path, nodes):
    write(tmp_path, {n: f"slow picture {n}" for n in range(64)})
    seen = []

    def watch(progress):
        if progress.done > 10 and not seen:
            seen.append(progress.done)
            nodes.remove_node(nodes.other, allow_graceful=False)

    curate(tmp_path, executor=on(tmp_path, nodes.address), report=watch)
    assert seen and len(by_path(tmp_path)) == 64 and not any(row["dropped"] for row in by_path(tmp_path).values())
    calls(tmp_path)
    _, version = curate(tmp_path)
    assert version is None and not calls(tmp_path)


def test_a_cluster_of_its_own_has_the_workers_asked_for_and_an_output_that_they_cannot_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_sees", _blind)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    write(tmp_path, {0: "one picture of many"})
    executor = on(tmp_path, "local", 4)
    with pytest.raises(UserError, match="is not seen on node .* all nodes share"):
        curate(tmp_path, executor=executor)
    assert executor.workers == 4 and not ray.is_initialized()
    assert not list((tmp_path / "cat").glob("probe*"))


def _blind(store, name):
    return None
