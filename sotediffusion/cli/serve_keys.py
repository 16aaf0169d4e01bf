"""`sote serve keys`: who may use a server."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sotediffusion.cli.serve_data import folder_asked, jobs_place
from sotediffusion.config import read_toml
from sotediffusion.types import UserError

if TYPE_CHECKING:
    from sotediffusion.serve.storage.allowances import Allowance
    from sotediffusion.serve.storage.keys import KeyStore

_DAY = 24 * 3600.0
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

data_option = click.option("--data", type=click.Path(path_type=Path), metavar="DIR",
                           help="The server's folder.  [~/.local/share/sotediffusion/serve; jobs and keys lie in the database "
                                "SOTE_JOBS instead where that is set]")  # fmt: skip
config_option = click.option("--config", type=click.Path(path_type=Path), help="Settings in TOML; options win over it.")


@click.group("keys")
def keys() -> None:
    """Make, limit, list and revoke API keys.

    \b
    sote serve keys add ann                          a key that draws and sees its own pictures
    sote serve keys add ops --scope generate --scope admin
    sote serve keys add bob --waiting 10 --bytes 2G --keep-days 30
    sote serve keys limit 0123456789abcdef --bytes 4G
    sote serve keys revoke 0123456789abcdef
    """


def _store(data: Path | None, config: Path | None) -> "KeyStore":
    """Of the database that a server with these options has."""
    from sotediffusion.serve.storage.database import Database
    from sotediffusion.serve.storage.keys import KeyStore

    table = {} if config is None else read_toml(config)
    return KeyStore(Database(jobs_place(folder_asked(data, table), table)))


def _bounds(command: Callable[..., None]) -> Callable[..., None]:
    """The options that bound what a key may have."""
    for option in (
        click.option("--keep-days", type=click.FloatRange(0, min_open=True), metavar="DAYS",
                     help="How long its finished jobs are kept; favourites stay.  [the server's --keep-days]"),
        click.option("--bytes", "size", metavar="SIZE",
                     help="Of its finished pictures, as 500M or 2G (of 2^30 bytes).  [the server's limits.bytes_per_owner]"),
        click.option("--waiting", type=click.IntRange(1), metavar="N",
                     help="Jobs of it that may wait at a time.  [the server's limits.queued_per_owner]"),
    ):  # fmt: skip
        command = option(command)
    return command


def _allowance(waiting: int | None, size: str | None, keep_days: float | None) -> "Allowance":
    from sotediffusion.serve.storage.allowances import Allowance

    return Allowance(waiting, None if size is None else _bytes(size), None if keep_days is None else keep_days * _DAY)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([kmgt]?)i?b?", text.strip().lower(), re.ASCII)
    if found is None:
        raise UserError("bytes", f"{text[:40]!r} is no size; write a number of bytes, or one like 500M or 2.5G")
    return int(float(found[1]) * _UNITS[found[2]])


@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, default=["generate"], show_default=True, metavar="SCOPE",
              help="generate (draw, see one's own), admin (options, metrics, raised priority). May be given twice.")  # fmt: skip
@_bounds
@data_option
@config_option
def add(
    name: str, scopes: tuple[str, ...], waiting: int | None, size: str | None, keep_days: float | None, data: Path | None,
    config: Path | None,
) -> None:  # fmt: skip
    """Make a key for NAME and print it. It is shown this once; the server keeps a hash only."""
    key, text = _store(data, config).add(name, scopes, _allowance(waiting, size, keep_days))
    click.echo(text)
    click.echo(f"note: this is the only time that key {key.id} is shown; keep it like a password", err=True)


@keys.command("list")
@data_option
@config_option
def list_keys(data: Path | None, config: Path | None) -> None:
    """List the keys: id, name, scopes, since when, whether revoked, and what bounds it has of its own."""
    for key in _store(data, config).all():
        state = f"revoked {_day(key.revoked)}" if key.revoked is not None else "valid"
        click.echo(f"{key.id}  {key.name}  {','.join(key.scopes)}  since {_day(key.created)}  {state}{_own(key.allowance)}")


@keys.command()
@click.argument("id")
@_bounds
@data_option
@config_option
def limit(
    id: str, waiting: int | None, size: str | None, keep_days: float | None, data: Path | None, config: Path | None
) -> None:
    """Give the key ID these bounds in place of those it has; what is left out is the server's again. Accepted jobs stay."""
    if not _store(data, config).allow(id, _allowance(waiting, size, keep_days)):
        raise _no_key(id)
    click.echo(f"limited {id}")


@keys.command()
@click.argument("id")
@data_option
@config_option
def revoke(id: str, data: Path | None, config: Path | None) -> None:
    """Let the key ID open nothing any more, at once. Jobs and pictures made with it stay."""
    if not _store(data, config).revoke(id):
        raise _no_key(id)
    click.echo(f"revoked {id}")


def _no_key(id: str) -> UserError:
    return UserError("id", f"{id[:40]!r} is no valid key; `sote serve keys list` shows them")


def _own(allowance: "Allowance") -> str:
    """The bounds that differ from the server's, each behind two spaces as the rest of a line."""
    days = None if allowance.keep_s is None else f"{allowance.keep_s / _DAY:g}"
    told = {"waiting": allowance.waiting, "bytes": allowance.bytes, "days": days}
    return "".join(f"  {name} {value}" for name, value in told.items() if value is not None)


def _day(when: float) -> str:
    return datetime.fromtimestamp(when).strftime("%Y-%m-%d")
