"""Runs the stages of a chain on a Ray cluster: each actor is a machine's share of it, with local processes of its own inside.

The shards, the steps and the finished files are those of one machine. An actor that is lost costs what it had not written: what
it had is found in the files.
"""

import pickle
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sotediffusion.curate.engine.local import Local
from sotediffusion.curate.engine.processes import Event, Luck, Means
from sotediffusion.curate.engine.shards import ROW, SHARD, Parts, Placed, Rows, Tally, shard_of, tally_columns
from sotediffusion.curate.engine.work import Stage, Task
from sotediffusion.knock import demand_tokens, knock
from sotediffusion.types import UserError

LOCAL = "local"  # a cluster of its own on this machine, also for Ray
PLACEMENT = 60.0  # seconds that a worker may wait for its place
TOGETHER = 4  # CPUs of an actor that decodes pictures for a model of its own


class Hand:
    """What an actor does; Ray makes one on a node."""

    def __init__(self, means: bytes):
        self.local = Local(pickle.loads(means))

    def ready(self) -> bool:
        return True

    def work(self, stage: bytes, task: bytes) -> Iterator[Event]:
        yield from self.local.run(pickle.loads(stage), [pickle.loads(task)])

    def compare(self, placed: bytes, parts: dict[str, Parts], rows: Rows) -> Iterator[tuple[int, int] | Tally]:
        yield from self.local.compare(pickle.loads(placed), parts, rows)


@dataclass
class _Actor:
    share: tuple[int, float]  # CPUs and GPUs
    handle: Any
    started: Any  # a reference that is there once the actor has its place
    asked: float
    placed: bool = False
    task: Task | None = None
    events: Any = None


class Cluster:
    """An executor on a Ray cluster."""

    def __init__(self, means: Means, address: str):
        self.means, self.address, self.workers = means, address, means.workers
        self.spare: list[_Actor] = []  # idle between two stages

    def __enter__(self) -> "Cluster":
        self.ray = _ray()
        demand_tokens()
        knock(self.address)
        cpus = self.means.workers if self.address == LOCAL else None
        try:
            self.ray.init(address=self.address, num_cpus=cpus, include_dashboard=False, log_to_driver=False,
                          logging_level="error", ignore_reinit_error=True)  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
            said = f"no cluster answers at {self.address} ({first})"
            raise UserError("ray", f"{said}; check the address and RAY_AUTH_TOKEN") from None
        self.workers = max(int(self.ray.cluster_resources().get("CPU", 1)), 1)
        try:
            self._check_output()
        except BaseException:
            self.ray.shutdown()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()

    def _check_output(self) -> None:
        """UserError unless every node sees what this one writes to the catalogue."""
        if self.means.store.remote:
            return
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        name, said = f"probe-{secrets.token_hex(8)}", secrets.token_hex(8)
        self.means.store.write(name, said.encode())
        try:
            nodes = [node for node in self.ray.nodes() if node["Alive"]]
            probe = self.ray.remote(num_cpus=0)(_sees)
            for node in nodes:
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                seen = probe.options(scheduling_strategy=where).remote(pickle.dumps(self.means.store), name)
                if self._within(seen, f"node {node['NodeManagerAddress']} does not answer") != said:
                    raise UserError("out", f"{self.means.store.place} is not seen on node {node['NodeManagerAddress']}; "
                                    "give a folder that all nodes share, or a URL such as s3://bucket/name")  # fmt: skip
        finally:
            self.means.store.remove(name)

    def _within(self, reference: Any, otherwise: str) -> Any:
        try:
            return self.ray.get(reference, timeout=PLACEMENT)
        except self.ray.exceptions.GetTimeoutError:
            raise UserError("ray", f"{otherwise} within {PLACEMENT:.0f} s; see `ray status`") from None

    def shares(self, stage: Stage) -> tuple[int, tuple[int, float]]:
        """How many actors a stage gets, and the CPUs and GPUs of each."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        if stage.gpus:
            places = [int(node.get("GPU", 0) / stage.gpus) for node in nodes]
            each = [have // count for have, count in zip(cpus, places, strict=True) if count]
            return max(sum(places), 1), (max(min(each, default=1), 1), stage.gpus)
        if stage.pictures:
            together = max(min(TOGETHER, max(cpus)), 1)
            return max(sum(have // together for have in cpus), 1), (together, 0)
        limits = [placed.step.workers * len(nodes) for placed in stage.steps if placed.step.workers]
        return max(min([sum(cpus), *limits]), 1), (1, 0)

    def actor(self, share: tuple[int, float]) -> _Actor:
        """A spare one with this share of the cluster, or a new one that asks for its place."""
        for actor in self.spare:
            if actor.share == share:
                self.spare.remove(actor)
                return actor
        cpus, gpus = share
        means = replace(self.means, workers=cpus, devices=(None,))  # the GPU that Ray gives it is the only one it sees
        kind = self.ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)(Hand)
        handle = kind.remote(pickle.dumps(means))
        return _Actor(share, handle, handle.ready.remote(), time.monotonic())

    def give(self, actors: Iterable[_Actor]) -> None:
        """Keep those that are idle for the next stage, and end the others."""
        for actor in actors:
            if actor.placed and actor.task is None:
                self.spare.append(actor)
            else:
                self.ray.kill(actor.handle)

    def make_room(self, share: tuple[int, float]) -> None:
        """End the spare actors that hold another share: what they hold may be wanted."""
        for actor in self.spare:
            if actor.share != share:
                self.ray.kill(actor.handle)
        self.spare = [actor for actor in self.spare if actor.share == share]

    def run(self, stage: Stage, tasks: Iterable[Task]) -> Iterator[Event]:
        """Do all tasks, in any order."""
        yield from _Run(self, stage, iter(tasks)).run()

    def compare(self, placed: Placed, parts: dict[str, Parts], rows: Rows) -> Iterator[tuple[int, int] | Tally]:
        """Run a step that wants all rows at once, on one node, and on another where that one is lost."""
        luck, share = Luck(3), (1, placed.step.gpus)
        while True:
            self.make_room(share)
            actor = self.actor(share)
            try:
                actor.placed = self._within(actor.started, f"no place for {placed.name}")
                for event in actor.handle.compare.options(num_returns="streaming").remote(pickle.dumps(placed), parts, rows):
                    yield self.ray.get(event)
            except self.ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            except self.ray.exceptions.RayActorError as error:
                luck.death(Stage((placed,), ""), type(error).__name__)
                continue
            self.give([actor])
            return


class _Run:
    """A stage on the cluster's actors, one task at a time each."""

    def __init__(self, cluster: Cluster, stage: Stage, tasks: Iterator[Task]):
        self.cluster, self.ray, self.stage, self.waiting = cluster, cluster.ray, stage, tasks
        self.again: deque[Task] = deque()
        self.actors: list[_Actor] = []
        self.luck = Luck(8)

    def run(self) -> Iterator[Event]:
        said = pickle.dumps(self.stage)
        self.cluster.make_room(self.cluster.shares(self.stage)[1])
        try:
            while self.fill_up() or any(actor.task for actor in self.actors):
                self.hand_out(said)
                yield from self.hear()
        finally:
            self.cluster.give(self.actors)

    def fill_up(self) -> bool:
        """Ask for as many actors as there are places and tasks for; whether tasks are waiting."""
        count, share = self.cluster.shares(self.stage)
        while len(self.again) < count and (task := next(self.waiting, None)) is not None:
            self.again.append(task)
        wanted = sum(actor.task is not None for actor in self.actors) + len(self.again)
        while len(self.actors) < min(count, wanted):
            self.actors.append(self.cluster.actor(share))
        return bool(self.again)

    def hand_out(self, stage: bytes) -> None:
        """Tasks for actors that have come to run; one that waits for its place holds nothing back."""
        for actor in self.actors:
            if actor.placed and actor.task is None and self.again:
                actor.task = self.again.popleft()
                actor.events = actor.handle.work.options(num_returns="streaming").remote(stage, pickle.dumps(actor.task))

    def hear(self) -> Iterator[Event]:
        self.check_places()
        busy = {actor.events: actor for actor in self.actors if actor.task is not None}
        if not busy:
            self.ray.wait([actor.started for actor in self.actors], timeout=1.0)
            return
        ready, _ = self.ray.wait(list(busy), num_returns=1, timeout=1.0)
        for events in ready:
            actor = busy[events]
            try:
                event: Event = self.ray.get(next(events))
            except StopIteration:
                actor.task = None
                continue
            except (self.ray.exceptions.ActorDiedError, self.ray.exceptions.ActorUnavailableError) as error:
                yield from self.bury(actor, error)
                continue
            except self.ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            if not isinstance(event, int):
                self.luck.success()
            yield event

    def check_places(self) -> None:
        """UserError where no actor has come to run; with some at work the others may go on waiting."""
        lost: list[_Actor] = []
        for actor in self.actors:
            if not actor.placed and self.ray.wait([actor.started], timeout=0)[0]:
                try:
                    actor.placed = bool(self.ray.get(actor.started))
                except self.ray.exceptions.RayActorError as error:
                    lost.append(actor)
                    self.luck.death(self.stage, type(error).__name__)  # where none can start, the run ends
        self.actors = [actor for actor in self.actors if actor not in lost]
        if self.actors and not any(actor.placed for actor in self.actors):
            if time.monotonic() - min(actor.asked for actor in self.actors) > PLACEMENT:
                _, (cpus, gpus) = self.cluster.shares(self.stage)
                raise UserError("ray", f"no place for a worker of {self.stage.name} ({cpus} CPU, {gpus:g} GPU) within "
                                f"{PLACEMENT:.0f} s; add nodes, or leave the step out with --skip")  # fmt: skip

    def bury(self, actor: _Actor, error: Exception) -> Iterator[Event]:
        """Take over what a lost actor had finished, and hand out the rest once more."""
        self.actors.remove(actor)
        self.luck.death(self.stage, type(error).__name__)
        assert actor.task is not None
        task, found = actor.task, []
        for placed in self.stage.steps:
            found += self.finished(placed, task)
        if found:
            yield found
        done = {tally.step: np.zeros(0, np.int64) for tally in found}
        for tally in found:
            done[tally.step] = np.union1d(done[tally.step], tally.rows)
        left = np.zeros(len(task.rows), bool)
        for step, mask in task.todo.items():
            task.todo = {**task.todo, step: mask & ~np.isin(task.rows, done.get(step, []))}
            left |= task.todo[step]
        files = {step: [*names, *(f"{p.folder}/{t.name}" for p in self.stage.steps for t in found if t.step == step == p.name)]
                 for step, names in task.files.items()}  # fmt: skip
        if left.any():
            rest = task.only(left, task.number)
            rest.files = files
            self.again.append(rest)

    def finished(self, placed: Placed, task: Task) -> list[Tally]:
        """Parts of a step with rows of a task that were not there when it was handed out."""
        store, tallies = self.cluster.means.store, []
        shards, before = set((task.rows // SHARD).tolist()), set(task.files.get(placed.name, ()))
        for name in store.names(placed.folder):
            if shard_of(name) in shards and f"{placed.folder}/{name}" not in before:
                table = store.read_table(f"{placed.folder}/{name}", tally_columns(placed))
                if np.isin(table.column(ROW).to_numpy(), task.rows).any():
                    tallies.append(Tally.of(placed, name, table))
        return tallies


def _sees(store: bytes, name: str) -> str | None:
    try:
        content: bytes = pickle.loads(store).read(name)
        return content.decode()
    except OSError:
        return None


def _cause(error: Any) -> Exception:
    """What went wrong in an actor: a sentence for the user where it was one."""
    cause = error.cause if hasattr(error, "cause") else None
    if isinstance(cause, UserError):
        return UserError(cause.field, cause.message)
    return RuntimeError(str(error))


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("ray", "Ray is not installed; pip install 'sotediffusion[cluster]'") from None
    return ray
