"""`sote serve keys`: who may use a server."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sotediffusion.cli.serve_data import folder_asked, jobs_place
from sotediffusion.config import read_toml

if TYPE_CHECKING:
    from sotediffusion.serve.storage.keys import KeyStore

data_option = click.option("--data", type=click.Path(path_type=Path), metavar="DIR",
                           help="The server's folder.  [~/.local/share/sotediffusion/serve; jobs and keys lie in the database "
                                "SOTE_JOBS instead where that is set]")  # fmt: skip
config_option = click.option("--config", type=click.Path(path_type=Path), help="Settings in TOML; options win over it.")


@click.group("keys")
def keys() -> None:
    """Make, list and revoke API keys.

    \b
    sote serve keys add ann                          a key that draws and sees its own pictures
    sote serve keys add ops --scope generate --scope admin
    sote serve keys revoke 0123456789abcdef
    """


def _store(data: Path | None, config: Path | None) -> "KeyStore":
    """Of the database that a server with these options has."""
    from sotediffusion.serve.storage.database import Database
    from sotediffusion.serve.storage.keys import KeyStore

    table = {} if config is None else read_toml(config)
    return KeyStore(Database(jobs_place(folder_asked(data, table), table)))


@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, default=["generate"], show_default=True, metavar="SCOPE",
              help="generate (draw, see one's own), admin (options, metrics, raised priority). May be given twice.")  # fmt: skip
@data_option
@config_option
def add(name: str, scopes: tuple[str, ...], data: Path | None, config: Path | None) -> None:
    """Make a key for NAME and print it. It is shown this once; the server keeps a hash only."""
    key, text = _store(data, config).add(name, scopes)
    click.echo(text)
    click.echo(f"note: this is the only time that key {key.id} is shown; keep it like a password", err=True)


@keys.command("list")
@data_option
@config_option
def list_keys(data: Path | None, config: Path | None) -> None:
    """List the keys: id, name, scopes, since when, and whether revoked."""
    for key in _store(data, config).all():
        state = f"revoked {_day(key.revoked)}" if key.revoked is not None else "valid"
        click.echo(f"{key.id}  {key.name}  {','.join(key.scopes)}  since {_day(key.created)}  {state}")


@keys.command()
@click.argument("id")
@data_option
@config_option
def revoke(id: str, data: Path | None, config: Path | None) -> None:
    """Let the key ID open nothing any more, at once. Jobs and pictures made with it stay."""
    from sotediffusion.types import UserError

    if not _store(data, config).revoke(id):
        raise UserError("id", f"{id[:40]!r} is no valid key; `sote serve keys list` shows them")
    click.echo(f"revoked {id}")


def _day(when: float) -> str:
    return datetime.fromtimestamp(when).strftime("%Y-%m-%d")
