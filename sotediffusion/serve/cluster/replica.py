"""What runs on a node of a cluster: a supervisor with its worker process, in an actor that Ray starts anew where it is lost.

An actor that is killed costs no job: its worker ends as an orphan, the leases run out, and another worker takes over. What goes
through Ray is settings and states, as JSON; prompts and pictures lie in the stores.
"""

import json
import threading
from pathlib import Path

from sotediffusion.config import build
from sotediffusion.knock import asks_for_tokens
from sotediffusion.serve.engine.channel import WorkerSettings
from sotediffusion.serve.engine.supervisor import Supervisor
from sotediffusion.serve.keeper import look_after
from sotediffusion.serve.storage.database import Database, masked
from sotediffusion.serve.storage.jobs import StoreDown
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.types import UserError


class Replica:
    """The class of the actors. `told` is a WorkerSettings as JSON."""

    def __init__(self, told: str):
        settings = build(WorkerSettings, json.loads(told))
        self.ended: list[str] = []
        self.supervisor = Supervisor(settings, JobStore(Database(settings.jobs)), on_ended=self.ended.append)
        threading.Thread(target=look_after, args=(self.supervisor, threading.Event()), daemon=True).start()

    def look(self, leave: bool) -> str:
        """How it is, and which jobs ended since it was asked last; with `leave` it is also to finish and take no more jobs."""
        if leave and not self.supervisor.stopping:
            self.supervisor.stop()
        ended = [self.ended.pop(0) for _ in range(len(self.ended))]
        said = {"ready": self.supervisor.ready, "over": self.supervisor.over, "trouble": self.supervisor.trouble}
        return json.dumps({**said, "ended": ended})


def probe(told: str, name: str, content: str) -> str:
    """What keeps this node from drawing, in words; empty where nothing does. `name` lies on the shelf with this content."""
    settings = build(WorkerSettings, json.loads(told))
    if not asks_for_tokens():
        return "asks nobody for a token; start Ray with RAY_AUTH_MODE=token on every node"
    try:
        seen = Shelf(settings.shelf).read(name).decode()
    except (UserError, OSError):
        seen = ""
    if seen != content:
        return (f"does not see the pictures in {masked(settings.shelf)}; set SOTE_PICTURES to a folder that all nodes share, or "
                "to an object store such as s3://bucket/folder")  # fmt: skip
    for place in (*settings.models.values(), *([settings.loras] if settings.loras else [])):
        if not Path(place).exists():
            return f"has no {place}; put the files of models and LoRA at the same place on every node"
    try:
        Database(settings.jobs).close()
    except (UserError, StoreDown) as error:
        return f"cannot open the jobs ({error}); let every node reach the database"
    return ""
