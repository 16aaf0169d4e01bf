"""The tables of the server and the indexes that keep its questions cheap, for SQLite and PostgreSQL alike."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    literal_column,
    true,
)

VERSION = 4  # of the tables; `upgrades` knows the steps from earlier ones, and a later one is not opened

metadata = MetaData()

_Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only what is declared INTEGER
_Json = JSON(none_as_null=True)

# A line is a queue of its own: one owner's jobs of one priority for one model. Owners take turns by `served`, which goes up with
# each claim and is the same in all lines of an owner. Lines stay when they are empty: they remember whose turn it was.
lines = Table(
    "lines",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("model", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("served", BigInteger, nullable=False),
    Column("waiting", BigInteger, nullable=False),  # how many jobs IN_LINE it has, so that nobody counts them
    UniqueConstraint("owner", "model", "priority"),
    Index("lines_served", "served"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Serial, primary_key=True),  # in the order of arrival
    Column("id", Text, nullable=False, unique=True),
    Column("line", ForeignKey("lines.id"), nullable=False),
    Column("place", BigInteger, nullable=False),  # in the owner's order: seq, until the owner reorders
    Column("owner", Text, nullable=False),
    Column("request", _Json, nullable=False),
    Column("model", Text, nullable=False),
    Column("loras", _Json, nullable=False),
    Column("origin", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("deadline", Float(53)),
    Column("webhook", Text),
    Column("idempotency", Text),
    Column("created", Float(53), nullable=False),
    Column("waiting_since", Float(53), nullable=False),
    Column("started", Float(53)),
    Column("finished", Float(53)),
    Column("state", Text, nullable=False),
    Column("alone", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("worker", Text),
    Column("lease_until", Float(53)),
    Column("progress", _Json),
    Column("error", _Json),
    Column("pictures", _Json),
    Column("bytes", BigInteger, nullable=False),
    Column("favourites", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("start_by", Float(53)),
    Column("asked", Text),
    sqlite_autoincrement=True,  # a number is never given twice, also after a purge
)

# Literal, because SQLite uses a partial index only where the question repeats its condition without a parameter.
QUEUED: ColumnElement[bool] = jobs.c.state == literal_column("'queued'")
RUNNING: ColumnElement[bool] = jobs.c.state == literal_column("'running'")
IN_LINE = and_(QUEUED, jobs.c.alone.is_(false()))
SUSPECT = and_(QUEUED, jobs.c.alone.is_(true()))
DUE = and_(jobs.c.finished.is_(None), jobs.c.deadline.is_not(None))
TO_BEGIN = and_(QUEUED, jobs.c.start_by.is_not(None))
ENDED = jobs.c.finished.is_not(None)
SHELVED = jobs.c.bytes > literal_column("0")
NAMED = jobs.c.idempotency.is_not(None)


def _partial(name: str, *columns: Column, where: ColumnElement[bool], unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_partial("jobs_in_line", jobs.c.line, jobs.c.place, where=IN_LINE)
_partial("jobs_queued", jobs.c.owner, jobs.c.place, where=QUEUED)
_partial("jobs_suspect", jobs.c.model, jobs.c.place, where=SUSPECT)
_partial("jobs_held", jobs.c.worker, where=RUNNING)
_partial("jobs_leased", jobs.c.lease_until, where=RUNNING)
_partial("jobs_due", jobs.c.deadline, where=DUE)
JOBS_TO_BEGIN = _partial("jobs_to_begin", jobs.c.start_by, where=TO_BEGIN)
_partial("jobs_ended", jobs.c.finished, where=ENDED)
_partial("jobs_shelved", jobs.c.owner, jobs.c.bytes, where=SHELVED)
_partial("jobs_named", jobs.c.owner, jobs.c.idempotency, where=NAMED, unique=True)
Index("jobs_owner", jobs.c.owner, jobs.c.seq)

# What is to be told to whom, at least once, written in the transaction that ends the job.
deliveries = Table(
    "deliveries",
    metadata,
    Column("job", Text, primary_key=True),  # a job ends once, so its id is what a receiver knows the second time by
    Column("url", Text, nullable=False),
    Column("due", Float(53)),  # None: done with
    Column("tries", Integer, nullable=False),
    Column("outcome", Text),  # of the last try
)
WAITING = deliveries.c.due.is_not(None)
_partial("deliveries_due", deliveries.c.due, where=WAITING)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("scopes", _Json, nullable=False),
    Column("created", Float(53), nullable=False),
    Column("revoked", Float(53)),
    Column("waiting", BigInteger),  # this and what follows: bounds of its own, see Allowance
    Column("bytes", BigInteger),
    Column("keep_s", Float(53)),
)

# Random bytes that all gateways share: what signs webhooks, addresses of pictures, cookies.
secrets = Table("secrets", metadata, Column("name", Text, primary_key=True), Column("value", LargeBinary, nullable=False))

about = Table("about", metadata, Column("version", Integer, nullable=False))
