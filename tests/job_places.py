"""Places for jobs that tests run over: a SQLite file, and a PostgreSQL server where one may be started."""

from contextlib import suppress

import postgres
import pytest
from web import quick_folder

from sotediffusion.serve.storage import schema
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Job, new_id
from sotediffusion.serve.storage.store import JobStore, Limits

PLACES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.system)]


SERVER = pytest.StashKey()


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="session")
def server(pytestconfig):
    """One server for all that ask, whichever module they are in."""
    if SERVER not in pytestconfig.stash:
        running = postgres.running()
        pytestconfig.stash[SERVER] = running.__enter__()
        pytestconfig.add_cleanup(lambda: running.__exit__(None, None, None))
    return pytestconfig.stash[SERVER]


@pytest.fixture
def quick():
    with quick_folder() as folder:
        yield folder


@pytest.fixture(params=PLACES)
def place(request, quick):
    """A path or URL with no jobs in it."""
    if request.param == "sqlite":
        return str(quick / "jobs.sqlite")
    url = request.getfixturevalue("server").url
    emptied(Database(url)).close()
    return url


def emptied(database):
    """The database with nothing in its tables."""
    with database.write() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            if table is not schema.about:
                connection.execute(table.delete())
    return database


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(place, clock):
    database = Database(place, clock)
    yield JobStore(database, Limits(queued=10_000, queued_per_owner=10_000))
    with suppress(Exception):
        database.close()


def order(owner="anna", model="m", **more):
    """A job to submit."""
    return Job(new_id(), owner, {"prompt": "1girl"}, model, **more)
