"""Replicas of the worker on a Ray cluster: where they are is Ray's choice, how many there are is the queue's."""

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sotediffusion.config import plain
from sotediffusion.knock import demand_tokens, knock
from sotediffusion.serve.cluster.replica import Replica, probe
from sotediffusion.serve.cluster.scaling import Policy, Scaling
from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.storage.jobs import JobState, StoreDown, new_id
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import UserError

ANSWER_S = 60.0  # that a node may take to say whether it can draw
PLACEMENT_S = 60.0  # that a replica may wait for its place, and be silent
SILENT_S = 10.0  # after which it does not count as ready
LOOK_S = 0.5  # between two looks at a replica
SCALE_S = 1.0  # between two looks at the queue


@dataclass(eq=False)
class _Placed:
    """A replica as it was when it was last heard of."""

    handle: Any
    asked: float  # when it was last asked
    heard: float  # when it last answered, or asked for its place
    answer: Any  # what it says next
    placed: bool = False
    ready: bool = False
    leaving: bool = False
    trouble: str = ""


class Replicas:
    """The workers of a server on the cluster at `address`, as `Keeper` looks after them.

    An engine that dies is started again by the replica around it; a replica or node that dies, by Ray.
    UserError: the cluster does not answer or asks for no token, its nodes lack what they need, the first replicas find no place.
    """

    def __init__(self, address: str, told: Callable[[str], WorkerSettings], store: JobStore, scaling: Scaling = Scaling()):
        """`told`: what a worker is to be told, for the device that the cluster offers, "cuda" or "cpu"."""
        self.store, self.scaling, self.policy = store, scaling, Policy(scaling)
        self.on_ended: Callable[[str], None] = lambda job: None
        self.placed: list[_Placed] = []
        self.stopping, self.wanted, self._lost = False, scaling.least, ""
        self._due = self._scaled = float("-inf")
        self.ray = _connected(address)
        try:
            nodes = self._nodes()
            offered = "cuda" if any(node["Resources"].get("GPU") for node in nodes) else "cpu"
            self.settings, self.cpus, self.gpus = _share(nodes, told(offered))
            self.told = json.dumps(plain(self.settings))
            self._check_nodes()
            self._place_first()
        except BaseException:
            self.kill()
            raise

    @property
    def ready(self) -> bool:
        """Whether any replica has its first model open."""
        return any(placed.ready for placed in self.placed)

    @property
    def trouble(self) -> str:
        """What is wrong with one of them; empty where nothing is."""
        return next((placed.trouble for placed in self.placed if placed.trouble), self._lost)

    @property
    def over(self) -> bool:
        """Whether all replicas have finished and gone."""
        return self.stopping and not self.placed

    @property
    def places(self) -> int:
        """How many replicas the nodes can hold, if nothing else runs there."""
        return sum(_holds(node, self.cpus, self.gpus) for node in self._nodes())

    def tick(self) -> None:
        """Hear the replicas, and have as many as are wanted."""
        now = time.monotonic()
        for placed in list(self.placed):
            self._watch(placed, now)
        if not self.stopping and now - self._scaled > SCALE_S:
            self._scaled = now
            with suppress(StoreDown):
                self._scale(now)

    def listen(self, seconds: float) -> None:
        """Wait a little: replicas speak when they are asked."""
        time.sleep(seconds)

    def wake(self) -> None:
        """Nothing: workers of a shared store look for themselves."""

    def stop(self) -> None:
        """Ask all to finish or release their jobs and to end."""
        self.stopping = True

    def kill(self) -> None:
        """End all at once and leave the cluster."""
        for placed in self.placed:
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(placed.handle)
        self.placed = []
        self.ray.shutdown()

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def _check_nodes(self) -> None:
        """UserError unless every node that could hold a replica can draw."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        shelf, id, said = Shelf(self.settings.shelf), new_id(), secrets.token_hex(8)
        name = shelf.put(id, said.encode())
        try:
            for node in self._nodes():
                if not _holds(node, self.cpus, self.gpus):
                    continue
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                asked = self.ray.remote(num_cpus=0, max_retries=0)(probe).options(scheduling_strategy=where)
                self._check_node(node["NodeManagerAddress"], asked.remote(self.told, name, said))
        finally:
            shelf.remove_job(id)

    def _check_node(self, address: str, answer: Any) -> None:
        try:
            found = self.ray.get(answer, timeout=ANSWER_S)
        except self.ray.exceptions.GetTimeoutError:
            found = f"does not answer within {ANSWER_S:.0f} s; see `ray status`"
        except self.ray.exceptions.RayError as error:
            found = f"cannot run this program ({_line(error)}); install sotediffusion[serve,postgres] of this version there"
        if found:
            raise UserError("ray", f"node {address} {found}")

    def _place_first(self) -> None:
        """The least number of replicas; UserError where they are not placed in time."""
        for _ in range(self.scaling.least):
            self._add()
        answers = [placed.answer for placed in self.placed]
        ready, waiting = self.ray.wait(answers, num_returns=len(answers), timeout=PLACEMENT_S)
        if waiting:
            raise UserError("ray", f"{self._no_place()}; add nodes, or lower scaling.least or worker.threads")
        for placed in self.placed:
            self._watch(placed, time.monotonic())
        if not self.placed:
            raise UserError("ray", f"{self.trouble}; see Ray's log on that node")

    def _no_place(self) -> str:
        return f"no place for a worker ({self.cpus} CPU, {self.gpus} GPU) within {PLACEMENT_S:.0f} s"

    def _add(self) -> None:
        kind = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=-1, max_task_retries=0)(Replica)
        handle = kind.remote(self.told)
        now = time.monotonic()
        self.placed.append(_Placed(handle, now, now, handle.look.remote(False)))

    def _watch(self, placed: _Placed, now: float) -> None:
        """Hear an answer and ask again; a replica that finds no place in time, falls silent or cannot begin is given up."""
        silent = now - placed.heard
        placed.ready = placed.ready and silent < SILENT_S
        leaving = placed.leaving or self.stopping
        if not self.ray.wait([placed.answer], timeout=0)[0]:
            if leaving and not placed.placed:
                self._remove(placed)
            elif silent > PLACEMENT_S:
                why = f"a worker did not answer for {PLACEMENT_S:.0f} s" if placed.placed else self._no_place()
                self._give_up(placed, why, now)
        elif now - placed.asked > LOOK_S or not placed.placed:
            try:
                self._hear(placed, json.loads(self.ray.get(placed.answer)), now)
            except self.ray.exceptions.RayError as error:
                placed.ready, placed.trouble = False, f"a worker was lost ({_line(error)})"
                if not placed.placed or silent > PLACEMENT_S:  # otherwise Ray is starting it anew
                    return self._give_up(placed, placed.trouble, now)
            if placed in self.placed:
                placed.asked, placed.answer = now, placed.handle.look.remote(leaving)

    def _hear(self, placed: _Placed, said: dict[str, Any], now: float) -> None:
        self._lost = self._lost if placed.placed else ""
        placed.heard, placed.placed = now, True
        placed.ready, placed.trouble = said["ready"], said["trouble"]
        for job in said["ended"]:
            self.on_ended(job)
        if said["over"]:
            self._remove(placed)

    def _give_up(self, placed: _Placed, why: str, now: float) -> None:
        self._remove(placed)
        self._lost, self._due = why, now + PLACEMENT_S

    def _remove(self, placed: _Placed) -> None:
        self.placed.remove(placed)
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(placed.handle)

    def _scale(self, now: float) -> None:
        """As many that stay as are wanted. One that leaves keeps its place until it has finished."""
        depth = self.store.depth(list(self.settings.models))
        places = self.places
        self.wanted = self.policy.wanted(depth[JobState.QUEUED] + depth[JobState.RUNNING], places, now)
        staying = [placed for placed in self.placed if not placed.leaving]
        for placed in staying[self.wanted :]:
            placed.leaving = True
        room = max(places, self.scaling.most or self.scaling.least) - len(self.placed)
        if now >= self._due:
            for _ in range(min(self.wanted - len(staying), room)):
                self._add()


def _connected(address: str) -> Any:
    """Ray, connected by token. UserError."""
    try:
        import ray as imported

        ray: Any = imported
        demand_tokens()
    except (ImportError, AttributeError):
        raise UserError("ray", "Ray is not installed, or older than 2.52; pip install 'ray>=2.52'") from None
    knock(address)
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = f"no cluster answers at {address} ({_line(error)})"
        raise UserError("ray", f"{said}; check the address and that RAY_AUTH_TOKEN is the cluster's") from None
    return ray


def _share(nodes: list[dict[str, Any]], settings: WorkerSettings) -> tuple[WorkerSettings, int, int]:
    """Settings for a replica, and the CPUs and GPUs that it takes: a GPU with its part of the CPUs, or else CPUs of a node."""
    held = [node["Resources"] for node in nodes]
    gpus = int(settings.device.startswith("cuda"))
    fitting = [int(node["CPU"] // max(node.get("GPU", 1) if gpus else 1, 1)) for node in held
               if node.get("CPU") and (not gpus or node.get("GPU"))]  # fmt: skip
    cpus = max(min(fitting, default=1), 1)
    if not gpus:
        cpus = min(settings.threads or cpus, cpus)
    models = {name: _absolute(at) for name, at in settings.models.items()}
    has_loras = bool(settings.loras) and Path(settings.loras).is_dir()
    loras = _absolute(settings.loras) if has_loras else ""  # which then every node must see
    threads = settings.threads if gpus else cpus
    device = "cuda" if gpus else "cpu"  # of several GPUs a replica sees only its own
    shelf = _absolute(settings.shelf)
    return replace(settings, models=models, loras=loras, shelf=shelf, threads=threads, device=device), cpus, gpus


def _holds(node: dict[str, Any], cpus: int, gpus: int) -> int:
    """How many replicas of such a share a node holds."""
    have = node["Resources"]
    places = int(have.get("CPU", 0) // cpus)
    return min(places, int(have.get("GPU", 0) // gpus)) if gpus else places


def _absolute(place: str) -> str:
    """A folder by its full path; URLs as they are."""
    return place if "://" in place else str(Path(place).absolute())


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:160]
