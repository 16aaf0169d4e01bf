"""What the owner of a key may have, where that differs from what the server gives everybody."""

from dataclasses import dataclass

import sqlalchemy as sa

from sotediffusion.serve.storage.schema import keys
from sotediffusion.types import UserError


@dataclass(frozen=True)
class Allowance:
    """Bounds of one key; None: the server's own. UserError for one that allows nothing at all."""

    waiting: int | None = None  # jobs
    bytes: int | None = None  # of finished pictures
    keep_s: float | None = None  # that finished jobs are kept, s

    def __post_init__(self) -> None:
        for field in ("waiting", "bytes", "keep_s"):
            value = getattr(self, field)
            if value is not None and not 0 < value < 2**63:  # no number is neither
                raise UserError(field, f"{value} is no bound of a key; take more than 0, or leave it out for the server's own")


def allowance_of(row: sa.Row) -> Allowance:
    """As a row of the keys has it."""
    return Allowance(row.waiting, row.bytes, row.keep_s)


def allowed(connection: sa.Connection, owner: str) -> Allowance:
    """An owner's; that of an owner without a key is the server's."""
    row = connection.execute(sa.select(keys.c.waiting, keys.c.bytes, keys.c.keep_s).where(keys.c.id == owner)).first()
    return Allowance() if row is None else allowance_of(row)


def shortest(connection: sa.Connection, retention_s: float) -> float:
    """The shortest time that anybody's finished jobs are kept, s."""
    least = connection.scalar(sa.select(sa.func.min(keys.c.keep_s)))
    return retention_s if least is None else min(least, retention_s)
