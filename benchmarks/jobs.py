"""What the queue costs: CPU seconds of each call with many jobs waiting, on SQLite or on a PostgreSQL server.

    python benchmarks/jobs.py --jobs 100000 --owners 10
    python benchmarks/jobs.py --place postgresql://user@host/empty
"""

import argparse
import tempfile
import time

import sqlalchemy as sa

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Job, Progress, StoredPicture, new_id
from sotediffusion.serve.storage.lines import line_of
from sotediffusion.serve.storage.rows import new_row
from sotediffusion.serve.storage.schema import jobs, lines
from sotediffusion.serve.storage.store import JobStore, Limits


def fill(store, count, owners):
    """Waiting jobs of many owners, put there by two statements; their ids."""
    number = sa.select(sa.literal(0).label("n")).cte("numbers", recursive=True)
    number = number.union_all(sa.select(number.c.n + 1).where(number.c.n < count - 1))
    row = new_row(Job("", "", {"prompt": "1girl, solo"}, "m"), 0, 0.0)
    with store.database.write() as connection:
        for owner in range(owners):
            line_of(connection, f"owner{owner}", "m", 0)
        text = sa.cast(number.c.n, sa.Text)
        owner = sa.literal("owner") + sa.cast(number.c.n % owners, sa.Text)
        row |= {"id": text, "owner": owner, "line": number.c.n % owners + 1, "place": number.c.n}
        given = {name: value for name, value in row.items() if not isinstance(value, sa.ColumnElement)}
        row |= {name: sa.literal(value, jobs.c[name].type) for name, value in given.items()}
        connection.execute(jobs.insert().from_select(list(row), sa.select(*row.values())))
        waiting = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.line == lines.c.id).scalar_subquery()
        connection.execute(lines.update().values(waiting=waiting))
    return [str(number) for number in range(count)]


def timed(name, times, call):
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(times):
        call(number)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{name:<34} {cpu / times * 1e3:8.2f} ms CPU {wall / times * 1e3:8.2f} ms wall", flush=True)


def measure(store, ids, times):
    """Each call of the store, `times` over."""
    held = []
    timed("submit", times, lambda n: store.submit(Job(new_id(), "owner0", {"prompt": "1girl"}, "m")))
    timed("position", times, lambda n: store.position(ids[n * 7 % len(ids)]))
    timed("claim one", times, lambda n: held.extend(store.claim(f"w{n}", ["m"], 1, 60)))
    timed("claim where nothing waits", times, lambda n: store.claim("idle", ["other"], 1, 60))
    running = {job.id: (job.fence, Progress("stage c", 3, 30)) for job in held[:16]}
    timed("heartbeat of 16", times, lambda n: store.heartbeat("w", running, 60))
    timed("versions of 16", times, lambda n: store.versions(ids[:16]))
    timed("get", times, lambda n: store.get(ids[n]))
    timed("expire where nothing is late", times, lambda n: store.expire())
    timed("succeed", times, lambda n: store.succeed(held[n].id, held[n].fence, [StoredPicture("x", 8, 8, 1, bytes=1)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", help="a PostgreSQL URL; a new SQLite file without it")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--owners", type=int, default=10)
    parser.add_argument("--times", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(arguments.place or f"{folder}/jobs.sqlite")
        store = JobStore(database, Limits(queued=10**9, queued_per_owner=10**9))
        measure(store, fill(store, arguments.jobs, arguments.owners), arguments.times)
        database.close()


if __name__ == "__main__":
    main()
