"""Whether anything listens at the address of a Ray cluster: Ray itself would try for ten minutes."""

import socket

from sotediffusion.types import UserError

PATIENCE_S = 10.0


def knock(address: str) -> None:
    """UserError unless something opens at host:port. Ray's own names, such as auto, are let pass."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise UserError("ray", f"no cluster answers at {address} ({error}); check the address") from None
