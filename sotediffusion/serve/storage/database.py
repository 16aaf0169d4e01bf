"""The database under the stores: opened by path or URL, short transactions, its failures in our words."""

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from sotediffusion.serve.storage import schema
from sotediffusion.serve.storage.jobs import StoreDown
from sotediffusion.serve.storage.upgrades import upgrade
from sotediffusion.types import UserError

_PATIENCE = 10  # s to wait for another's transaction
_DISK_FULL, _READ_ONLY = "53100", "25006"  # PostgreSQL's words; it may be read-only for as long as another takes over
_VANISHED = {  # a host that is gone without a word is noticed: nothing else would ever end the wait for its answer
    "tcp_user_timeout": 1000 * _PATIENCE,  # ms
    "keepalives_idle": 5,  # s
    "keepalives_interval": 5,  # s
    "keepalives_count": 3,
}
_WAL_KEPT = 64 * 2**20  # bytes of the write-ahead log that stay on the disk after a burst


class Database:
    """A SQLite file (given by its path) or a PostgreSQL database (given by its URL), its tables made when they are missing.

    Tables of an earlier version are brought up to this one; the program that wrote them opens them no more.

    SQLite must lie on a disk of this machine: its write-ahead log does not work over a network.
    Raises UserError for a place that cannot be opened and for tables of a later version.
    """

    def __init__(self, place: str | Path, clock: Callable[[], float] | None = None):
        self.place = str(place)
        self.shared = self.place.startswith(("postgresql:", "postgresql+psycopg:", "postgres:"))
        self._clock = clock or (None if self.shared else time.time)
        self.engine = _postgres(self.place) if self.shared else _sqlite(self.place)
        self._prepare()

    def __repr__(self) -> str:
        return f"Database({masked(self.place)!r})"

    def now(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the one clock that all who share the database go by."""
        if self._clock is not None:
            return self._clock()
        return float(connection.scalar(sa.text("select extract(epoch from clock_timestamp())")) or 0)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Questions, each answered from its own moment; they wait for no writer."""
        with _in_our_words(self.place), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Several questions answered from one moment, as if nobody wrote between them; they wait for no writer either."""
        with _in_our_words(self.place), self.engine.connect() as connection:
            if self.shared:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self, durable: bool = True) -> Iterator[sa.Connection]:
        """One transaction, kept whole or not at all.

        A kill of any process loses no commit either way. `durable` also outlives a power cut, at the price of waiting for the
        disk: for all that a caller was promised. What is not durable is said again within seconds (progress) or redone (a claim).
        """
        with _in_our_words(self.place), self.engine.connect() as connection:
            connection = connection.execution_options(durable=durable)
            with connection.begin():
                if self.shared and not durable:
                    connection.execute(sa.text("set local synchronous_commit to off"))
                yield connection

    def lock(self, connection: sa.Connection, name: str) -> None:
        """Let nobody else into what has this name until the transaction ends. SQLite has one writer at a time anyway."""
        if self.shared:
            connection.execute(sa.text("select pg_advisory_xact_lock(hashtext(:name))"), {"name": f"sote {name}"})

    def close(self) -> None:
        self.engine.dispose()

    def _prepare(self) -> None:
        with self.write() as connection:
            self.lock(connection, "tables")
            schema.metadata.create_all(connection)
            found = connection.scalar(sa.select(schema.about.c.version))
            if found is None:
                connection.execute(schema.about.insert().values(version=schema.VERSION))
            elif found < schema.VERSION:
                upgrade(connection, found)
                connection.execute(schema.about.update().values(version=schema.VERSION))
        if found is not None and found > schema.VERSION:
            raise UserError("jobs", f"{masked(self.place)} has tables of version {found}, and this program reads version "
                                    f"{schema.VERSION}; use the program that wrote it, or another place")  # fmt: skip


def masked(place: str) -> str:
    """A URL without its password."""
    return re.sub(r"//[^/@]*@", "//***@", re.sub(r"(password=)[^&]*", r"\1***", place))


def _sqlite(path: str) -> sa.Engine:
    if "://" in path:
        raise UserError("jobs", f"{masked(path)} is no place for jobs; give the path of a file or postgresql://user@host/name")
    file = Path(path).absolute()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # prompts and hashes are nobody else's business
    except OSError as error:
        raise UserError("jobs", f"{file} cannot be opened ({error.strerror}); give a file that can be written") from None
    url = sa.URL.create("sqlite", database=str(file))
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": _PATIENCE})  # a log must hold no prompts

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where `_begin` says so
        _write_ahead(connection)
        connection.execute(f"pragma journal_size_limit={_WAL_KEPT}")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if "durable" in options:
            connection.exec_driver_sql(f"pragma synchronous={'full' if options['durable'] else 'normal'}")
            connection.exec_driver_sql("begin immediate")  # at once, for a reader that turns writer cannot wait its turn
        elif options.get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("begin")

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """The file keeps a write-ahead log from now on. SQLite does not wait for who says so as well: it is asked again."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("pragma journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgres(place: str) -> sa.Engine:
    try:
        url = sa.make_url(place).set(drivername="postgresql+psycopg")
    except (exc.ArgumentError, ValueError):
        raise UserError("jobs", f"{masked(place)[:200]} is no URL; give postgresql://user@host/name") from None
    limits = f"-c lock_timeout={_PATIENCE}s -c idle_in_transaction_session_timeout={6 * _PATIENCE}s"
    told = {"connect_timeout": _PATIENCE, "options": limits, **_VANISHED}
    return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=told)


@contextmanager
def _in_our_words(place: str) -> Iterator[None]:
    try:
        yield
    except exc.TimeoutError as error:
        raise StoreDown(f"{masked(place)} has more to do than it can: no connection became free in time") from error
    except exc.DBAPIError as error:
        text, code = str(error.orig), getattr(error.orig, "sqlstate", None)
        if "disk is full" in text or code == _DISK_FULL:
            raise UserError("disk", f"no space is left for {masked(place)}; free some, then try again") from None
        if "not a database" in text or "malformed" in text:
            raise UserError("jobs", f"{masked(place)} is no database of jobs ({text[:80]}); give another file") from None
        if isinstance(error, exc.OperationalError) or error.connection_invalidated or code == _READ_ONLY:
            raise StoreDown(f"{masked(place)} does not answer: {masked(' '.join(text.split()))[:200]}") from error
        raise
