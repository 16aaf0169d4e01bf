"""From settings to a chain of steps, and from a chain to a catalogue."""

import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sotediffusion.config import build, plain, to_toml
from sotediffusion.curate.again import forget_errors, forget_killers
from sotediffusion.curate.catalogue import VERSIONS, Version, check_name, commit, versions
from sotediffusion.curate.engine.columns import Finished
from sotediffusion.curate.engine.guarded import Guarded
from sotediffusion.curate.engine.local import Local
from sotediffusion.curate.engine.lock import only_writer
from sotediffusion.curate.engine.processes import Means
from sotediffusion.curate.engine.progress import Progress
from sotediffusion.curate.engine.runner import Executor, Runner
from sotediffusion.curate.engine.shards import SHARD, WORK
from sotediffusion.curate.engine.store import Store
from sotediffusion.curate.step import Step
from sotediffusion.names import unknown
from sotediffusion.types import UserError

ABOUT = "catalogue.json"
SETTINGS = "settings.toml"
FORMAT = 1


@dataclass(frozen=True)
class RunSettings:
    """The section [run]: how a machine is used. Results do not depend on it."""

    memory_gib: float = 3.0  # that a worker which opens pictures may take; 0 for any
    devices: tuple[str, ...] = ()  # numbers of GPUs, one model process on each; none: one process for what there is


@dataclass(frozen=True)
class Places:
    """What a chain is built for."""

    source: Any  # PictureSource
    store: Store
    models: Path
    secrets: Mapping[str, Any]  # keys for endpoints, by the step's name
    memory: int = 0  # bytes that opening a picture may take; 0 for any
    say: Callable[[str], None] = lambda _: None  # is told what people should know

    def guarded(self, make: Callable[[Any], Any]) -> Guarded:
        """The source for steps that are not handed pictures but open some themselves."""
        return Guarded(self.source, self.memory, make)


def _scan(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.scan.step import ScanStep

    return [ScanStep(places.source, table)]


def _policy(_: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.policy import PolicyStep

    return [PolicyStep()]


def _filter(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.filters import FilterStep

    return [FilterStep(table)]


def _dedupe(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.dedupe.looked import Looked
    from sotediffusion.curate.dedupe.reference import Reading, read_reference
    from sotediffusion.curate.dedupe.step import DedupeStep
    from sotediffusion.curate.dedupe.structure import square
    from sotediffusion.curate.dedupe.verdicts import held

    looked = Looked(places.store)
    reference = read_reference(table.reference, Reading(places.memory, places.store, places.say))
    return [DedupeStep(table, places.guarded(square), held(places.store), reference, looked)]


def _score(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.inference.score import score_steps

    return list(score_steps(table, places.models))


def _tag(table: Any, places: Places, before: list[Step]) -> list[Step]:
    """The tagger, and right after it the policy on what it saw; the tagger's list is kept in the catalogue."""
    from sotediffusion.curate.policy import TagPolicyStep
    from sotediffusion.curate.tag.step import TagStep
    from sotediffusion.curate.tag.taglist import keep_taglist, read_taglist

    step = TagStep(table, places.models)
    tags = read_taglist(step.taglist)
    keep_taglist(step.taglist, places.store)
    return [step, TagPolicyStep(tags)]


def _cut(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.compose.cuts import Cut
    from sotediffusion.curate.policy import TagPolicyStep

    lists = [step.tags for step in before if isinstance(step, TagPolicyStep)]
    return [Cut(table, *lists)]


def _text(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.text.step import TextStep

    _check_seen("text", table, before)
    return [TextStep(table, _see(table, places), _journal(places), places.secrets.get("text"), places.models)]


def _prose(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.text.step import ProseStep

    _check_seen("prose", table, before)
    return [ProseStep(table, _see(table, places), _journal(places), places.secrets.get("prose"), places.models)]


def _check_seen(name: str, table: Any, before: list[Step]) -> None:
    """UserError where pictures would leave this machine that the policy has not seen tags of."""
    from sotediffusion.curate.policy import TagPolicyStep
    from sotediffusion.curate.text.endpoint import host_elsewhere

    host = host_elsewhere(table.endpoint) if table.backend == "endpoint" else None
    if host is not None and not any(isinstance(step, TagPolicyStep) for step in before):
        raise UserError(f"{name}.backend", f"'endpoint' would send pictures to {host[:80]} before the policy has read their "
                        f"tags; leave out --skip tag, take a server on this machine, or go on with --skip {name}")  # fmt: skip


def _see(table: Any, places: Places) -> Callable[[str], Any]:
    from sotediffusion.curate.text.answers import shrunk_pixels

    return places.guarded(partial(shrunk_pixels, long_side=table.long_side)).decode


def _rules(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.compose.rules import Rules

    return [Rules(table)]


def _compose(table: Any, places: Places, before: list[Step]) -> list[Step]:
    from sotediffusion.curate.compose.step import Compose
    from sotediffusion.curate.compose.tagwork import with_rules

    return [Compose(with_rules(table, places.store))]


def _journal(places: Places) -> Path:
    """A folder of this machine: answers are written one by one, which an object store does not take."""
    if not places.store.remote:
        return Path(places.store.root) / "journal"
    return Path(tempfile.gettempdir()) / f"sote-journal-{hashlib.sha256(places.store.root.encode()).hexdigest()[:16]}"


# In the order of the chain. What is always done cannot be skipped.
STEPS: dict[str, Callable[[Any, Places, list[Step]], list[Step]]] = {
    "scan": _scan, "policy": _policy, "filter": _filter, "dedupe": _dedupe, "score": _score, "tag": _tag, "cut": _cut,
    "text": _text, "prose": _prose, "rules": _rules, "compose": _compose,
}  # fmt: skip
ALWAYS = ("scan", "policy")


def sections() -> dict[str, Any]:
    """The sections of a settings file and the dataclass of each."""
    from sotediffusion.curate.compose.cuts import CutSettings
    from sotediffusion.curate.compose.rules import RulesSettings
    from sotediffusion.curate.compose.step import ComposeSettings
    from sotediffusion.curate.dedupe.step import DedupeSettings
    from sotediffusion.curate.filters import FilterSettings
    from sotediffusion.curate.inference.score import ScoreSettings
    from sotediffusion.curate.scan.step import ScanSettings
    from sotediffusion.curate.tag.step import TagSettings
    from sotediffusion.curate.text.answers import ProseSettings, TextSettings

    return {"run": RunSettings, "scan": ScanSettings, "filter": FilterSettings, "dedupe": DedupeSettings, "score": ScoreSettings,
            "tag": TagSettings, "cut": CutSettings, "text": TextSettings, "prose": ProseSettings, "rules": RulesSettings,
            "compose": ComposeSettings}  # fmt: skip


def resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """Each section's dataclass, from the tables of a settings file; UserError for a section or key that nobody reads."""
    kinds = sections()
    for name, table in values.items():
        if name not in kinds:
            raise unknown("settings", name, kinds)
        if not isinstance(table, Mapping):
            raise UserError(name, f"{str(table)[:80]!r} is a value and no section; write for example {name}.key=value")
    return {name: build(kind, values.get(name, {}), name) for name, kind in kinds.items()}


def check(settings: Mapping[str, Any]) -> None:
    """UserError for what no run may be given, whatever it skips; asked before anything is opened or written."""
    from sotediffusion.curate.engine.shelves import refuse_keys
    from sotediffusion.curate.tag.step import check_floor
    from sotediffusion.curate.text.endpoint import check_endpoint

    check_floor(settings["tag"].floor)
    for name in ("text", "prose"):  # used or not, they are written down with the rest
        check_endpoint(settings[name].endpoint, f"{name}.endpoint")
    for place in settings["dedupe"].reference:
        refuse_keys("dedupe.reference", place)


def chain(settings: Mapping[str, Any], places: Places, skip: Collection[str] = ()) -> list[Step]:
    """The steps of a run, in order. UserError for what cannot be skipped or opened."""
    for name in skip:
        if name in ALWAYS:
            raise UserError("skip", f"{name} is always done; skip one of {', '.join(n for n in STEPS if n not in ALWAYS)}")
        if name not in STEPS:
            raise unknown("skip", name, [step for step in STEPS if step not in ALWAYS])
    steps: list[Step] = []
    for name in STEPS:
        if name not in skip:
            steps += STEPS[name](settings.get(name), places, steps)
    return steps


@dataclass(frozen=True)
class Order:
    """What is to be curated, and how."""

    source: str
    out: str
    settings: Mapping[str, Any]  # as `resolve` gives them
    models: Path
    workers: int
    skip: tuple[str, ...] = ()
    name: str | None = None  # of the version; numbered if none
    ray: str | None = None  # address of a cluster
    secrets: Mapping[str, Any] | None = None
    again: bool = False  # open once more what killed its decoder, or could not be opened for a closer look


def run(order: Order, report: Callable[[Progress], None],
        say: Callable[[str], None] = lambda _: None) -> tuple[Version | None, Runner, dict[str, str]]:  # fmt: skip
    """Do what is left to do and name the outcome; the version is None where nothing has changed.

    Last come notes by name, for people: what the listing passed over, and what the tagger ran on, which is said at once, too.
    """
    from sotediffusion.curate.dedupe import looked, reference
    from sotediffusion.curate.inference.hashes import check_models
    from sotediffusion.curate.scan.sources import open_source, passed_over, whole
    from sotediffusion.curate.text.journal import forget

    check(order.settings)
    source, store = open_source(order.source), Store(order.out)
    if order.name:
        check_name(order.name, versions(store))
    with only_writer(store):
        secret = _about(store)
        store.remove_halves((WORK, VERSIONS, looked.FOLDER, reference.FOLDER))
        places = Places(source, store, order.models, order.secrets or {}, _memory(order), say)
        steps = chain(order.settings, places, order.skip)
        check_models(order.models, _models(order))
        forget_errors(store, steps)
        looked.forget_failures(store, order.again)
        if order.again:
            forget_killers(store, steps)
        runs_on = _tagger_runs_on(order, steps)
        if runs_on:
            say(f"the tagger runs on {runs_on}; tag.provider={order.settings['tag'].provider}")
        told = {"source": whole(order.source), "skip": list(order.skip), **_taglist(steps), **plain(dict(order.settings))}
        store.write(SETTINGS, to_toml(told).encode())
        with _executor(order, store, source) as executor:
            runner = Runner(store, steps, executor, report)
            ledger = runner.run(source, secret)
        erased = set(runner.contents(np.flatnonzero(ledger.erased)).drop_null().to_pylist())
        forget(_journal(places), erased)
        looked.forget_looked(store, erased)
        runner.watch.say("committing")
        held: dict[str, str] = next((version.settings.get("notes", {}) for version in reversed(versions(store))), {})
        tagged = runs_on and (runs_on if "tag" in runner.worked else held.get("tagged on", ""))
        notes = {"passed over": passed_over(source.skipped), "tagged on": tagged}
        notes = {name: text for name, text in notes.items() if text}
        finished = Finished(store, runner.chain.placed, runner.parts, ledger)
        return commit(finished, {**told, "notes": notes}, order.name), runner, notes


def _models(order: Order) -> list[str]:
    """The names of the models that a run opens."""
    settings = {name: table for name, table in order.settings.items() if name not in order.skip}
    named = list(settings["score"].scorers) if "score" in settings else []
    named += [settings["tag"].model] if "tag" in settings else []
    return named + [settings[name].model for name in ("text", "prose") if name in settings and settings[name].backend == "llava"]


def _tagger_runs_on(order: Order, steps: list[Step]) -> str:
    """The provider that tags: the one asked for, as none takes its place without an error, or else the best that is here."""
    from sotediffusion.curate.inference.runtime import AUTO, provider_here

    if not any(step.name == "tag" for step in steps):
        return ""
    wanted: str = order.settings["tag"].provider
    if wanted != AUTO:
        return wanted
    return "the best that each node has" if order.ray else provider_here(AUTO)


def _taglist(steps: list[Step]) -> dict[str, str]:
    """Which of the lists kept in the catalogue the tags' numbers point into."""
    from sotediffusion.curate.policy import TagPolicyStep

    lists = [step.tags.sha256 for step in steps if isinstance(step, TagPolicyStep)]
    return {"taglist": lists[0]} if lists else {}


def _memory(order: Order) -> int:
    return int(order.settings["run"].memory_gib * 2**30)


def _executor(order: Order, store: Store, source: Any) -> AbstractContextManager[Executor]:
    means = Means(store, source, order.workers, _memory(order), order.settings["run"].devices or (None,))
    if order.ray is None:
        return Local(means)
    from sotediffusion.curate.engine.cluster import Cluster

    return Cluster(means, order.ray)


def _about(store: Store) -> bytes:
    """The catalogue's own key for hashes of paths; made with the catalogue. UserError for a folder of something else."""
    try:
        about = json.loads(store.read(ABOUT))
        if about["format"] != FORMAT or about["shard"] != SHARD:
            raise UserError("out", f"{store.place} is a catalogue of another version of this program; give another place")
        return bytes.fromhex(about["key"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError):
        raise UserError("out", f"{ABOUT} in {store.place} is no catalogue's; give another place") from None
    others = [name for name in store.names("") if name not in ("run.lock", "workers.lock")]
    if others:
        raise UserError("out", f"{store.place} holds {others[0]} and no catalogue; give an empty or a new folder")
    key = secrets.token_bytes(32)
    store.write(ABOUT, json.dumps({"format": FORMAT, "shard": SHARD, "key": key.hex()}).encode())
    return key
