"""Programs that the kill tests start and end with SIGKILL: a gateway that submits, a worker that claims and finishes."""

import multiprocessing
import os
import signal
import time

from job_places import order

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import StoredPicture
from sotediffusion.serve.storage.shelf import Shelf
from sotediffusion.serve.storage.store import JobStore, Limits

LIMITS = Limits(queued=100_000, queued_per_owner=100_000, charges=1_000_000)  # here it is never the job's fault


def start(program, *arguments):
    process = multiprocessing.get_context("fork").Process(target=program, args=arguments, daemon=True)
    process.start()
    return process


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def note(path, line):
    """One line at the end of a file in one write, which no kill tears."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def gateway(place, accepted, owner):
    store = JobStore(Database(place), LIMITS)
    while True:
        note(accepted, store.submit(order(owner)).id)


def worker(place, shelf, stored, name):
    """Claims, draws (a file that says who drew it), stores; notes each result that the store took from it."""
    store, shelf = JobStore(Database(place), LIMITS), Shelf(shelf, reserve=0)
    while True:
        batch = store.claim(name, ["m"], 2, lease_s=0.5)
        for job in batch:
            store.heartbeat(name, {job.id: (job.fence, None)}, lease_s=0.5)
            content = f"{job.id} {job.fence}".encode()
            picture = StoredPicture(shelf.put(job.id, content), 8, 8, seed=job.fence, bytes=len(content))
            if store.succeed(job.id, job.fence, [picture]):
                note(stored, job.id)
        if not batch:
            time.sleep(0.01)
