"""API keys: made here, shown once, kept only as hashes, each for what its scopes allow."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from sotediffusion.names import unknown
from sotediffusion.serve.storage.allowances import Allowance, allowance_of
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.schema import keys
from sotediffusion.types import UserError

SCOPES = ("generate", "admin")  # draw and see one's own; change options, read metrics, go before others

_NOBODY = bytes(32)  # a hash that nothing has
_LONGEST = 80  # characters of a name


@dataclass(frozen=True)
class Key:
    """A key as the server knows it; `id` is the owner of the jobs submitted with it."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created: float  # s since 1970
    revoked: float | None = None
    allowance: Allowance = Allowance()


class KeyStore:
    """The keys in a database. Each check reads it anew, so that a revoked key opens nothing from then on."""

    def __init__(self, database: Database):
        self.database = database

    def add(
        self, name: str, scopes: Collection[str] = ("generate",), allowance: Allowance = Allowance()
    ) -> tuple[Key, str]:
        """A new key and its text, `id:secret`, which is nowhere to be read again. UserError for an odd name or scope."""
        if not 0 < len(name) <= _LONGEST or not name.isprintable():
            raise UserError("name", f"{name[:_LONGEST]!r} is no name; take 1 to {_LONGEST} printable characters")
        for scope in scopes:
            if scope not in SCOPES:
                raise unknown("scope", scope, SCOPES)
        secret = secrets.token_urlsafe(32)
        key = Key(secrets.token_hex(8), name, tuple(scope for scope in SCOPES if scope in scopes), time.time(),
                  allowance=allowance)  # fmt: skip
        told = {field: value for field, value in vars(key).items() if field != "allowance"}
        with self.database.write() as connection:
            connection.execute(keys.insert().values(**told, **vars(allowance), hash=_hash(secret)))
        return key, f"{key.id}:{secret}"

    def all(self) -> list[Key]:
        """Every key, revoked ones too, in the order of their making."""
        with self.database.read() as connection:
            return [_key(row) for row in connection.execute(sa.select(keys).order_by(keys.c.created, keys.c.id))]

    def revoke(self, id: str) -> bool:
        """Let a key open nothing any more; its jobs stay. False where there is no such key, or it is revoked already."""
        with self.database.write() as connection:
            valid = sa.and_(keys.c.id == id, keys.c.revoked.is_(None))
            return bool(connection.execute(keys.update().where(valid).values(revoked=time.time())).rowcount)

    def allow(self, id: str, allowance: Allowance) -> bool:
        """Give a key these bounds in place of those it had; they hold from now on. False: there is no such key."""
        with self.database.write() as connection:
            return bool(connection.execute(keys.update().where(keys.c.id == id).values(**vars(allowance))).rowcount)

    def valid(self, id: str) -> Key | None:
        """The key of this id, unless it is revoked; for who has shown it before."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(keys).where(keys.c.id == id, keys.c.revoked.is_(None))).first()
        return _key(row) if row is not None else None

    def check(self, text: str) -> Key | None:
        """The key of this text, unless it is wrong or revoked; in the same time for a wrong secret as for a right one."""
        id, _, secret = text.partition(":")
        with self.database.read() as connection:
            row = connection.execute(sa.select(keys).where(keys.c.id == id, keys.c.revoked.is_(None))).first()
        right = hmac.compare_digest(row.hash if row is not None else _NOBODY, _hash(secret))
        return _key(row) if row is not None and right else None


def _hash(secret: str) -> bytes:
    """SHA-256, once: a slow hash is for words that people choose; 256 random bits cannot be guessed at any speed."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _key(row: sa.Row) -> Key:
    return Key(row.id, row.name, tuple(row.scopes), row.created, row.revoked, allowance_of(row))
