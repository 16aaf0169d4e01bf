"""`sote serve`: what belongs to a server."""

import click

from sotediffusion.cli.serve_keys import keys


@click.group("serve")
def group() -> None:
    """Look after a server."""


group.add_command(keys)
