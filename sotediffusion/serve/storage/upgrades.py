"""Tables of earlier versions brought up to this one, step by step, in the transaction that opens them."""

import sqlalchemy as sa
from sqlalchemy.schema import CreateColumn

from sotediffusion.serve.storage.schema import JOBS_TO_BEGIN, VERSION, jobs, keys

# What each version added. All of it may be empty, so that old rows stay as they are and nothing is copied.
ADDED: dict[int, tuple[sa.Column | sa.Index, ...]] = {
    2: (keys.c.waiting, keys.c.bytes, keys.c.keep_s),
    3: (jobs.c.start_by, JOBS_TO_BEGIN),
    4: (jobs.c.asked,),
}


def upgrade(connection: sa.Connection, found: int) -> None:
    """Add what tables of the version `found` lack."""
    for version in range(found + 1, VERSION + 1):
        for part in ADDED[version]:
            if isinstance(part, sa.Index):
                part.create(connection)
            else:
                text = CreateColumn(part).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"alter table {part.table.name} add column {text}")
