"""What is removed by and by: jobs past their time with their pictures, and files that no job knows."""

import time

from sotediffusion.serve.storage.jobs import Job
from sotediffusion.serve.storage.shelf import Shelf, with_thumbnails
from sotediffusion.serve.storage.store import JobStore

_GRACE = 3600.0  # s; younger files may belong to a job whose result is just being written


def remove_stale(store: JobStore, shelf: Shelf, retention_s: float) -> int:
    """Remove the jobs that ended longer ago than the retention; how many. Files go last, as a job may have become a favourite."""
    removed = 0
    while stale := store.stale(retention_s):
        gone = store.forget_stale([job.id for job in stale], retention_s)
        for id in gone:
            shelf.remove_job(id)
        removed += len(gone)
    return removed


def sweep(store: JobStore, shelf: Shelf, grace_s: float = _GRACE) -> int:
    """Remove files that no job knows any more: what a killed worker left behind, and previews of what has ended; how many.

    It walks over the whole shelf, so it is for once in a while.
    """
    removed = 0
    until = time.time() - grace_s
    for id in shelf.jobs():
        kept = _kept(store.get(id))
        if kept is not None:
            unknown = [name for name, when in shelf.written(id).items() if name not in kept and when <= until]
            shelf.remove(unknown)
            removed += len(unknown)
    return removed


def _kept(job: Job | None) -> set[str] | None:
    """The files that belong to a job; None while it may still write more."""
    if job is None:
        return set()
    if not job.state.ended:
        return None
    shown = {name for picture in job.pictures or () for name in with_thumbnails(picture.name)}
    return shown | {job.request.get("init") or ""}
