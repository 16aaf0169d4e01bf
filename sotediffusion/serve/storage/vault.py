"""Random secrets that all gateways of one database share, made when they are first asked for."""

import secrets as random

import sqlalchemy as sa

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.schema import secrets


def shared_secret(database: Database, name: str) -> bytes:
    """The 32 random bytes of this name, the same for every process and every start."""
    ours = sa.select(secrets.c.value).where(secrets.c.name == name)
    with database.read() as connection:
        value = connection.scalar(ours)
    if value is None:
        with database.write() as connection:
            database.lock(connection, "secrets")
            value = connection.scalar(ours)
            if value is None:
                value = random.token_bytes(32)
                connection.execute(secrets.insert().values(name=name, value=value))
    return bytes(value)
