"""Before a Ray cluster is joined: whether anything listens at its address, and whether it talks by token only."""

import socket
from typing import Any

from sotediffusion.types import UserError

PATIENCE_S = 10.0


def knock(address: str) -> None:
    """UserError unless something opens at host:port; Ray would try for ten minutes. Its own names, such as auto, pass."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise UserError("ray", f"no cluster answers at {address} ({error}); check the address") from None


def asks_for_tokens() -> bool:
    """Whether Ray in this process talks only to those who know the cluster's token."""
    import ray

    own: Any = ray
    return bool(own._raylet.get_authentication_mode() == own._raylet.AuthenticationMode.TOKEN)


def demand_tokens() -> None:
    """UserError unless Ray in this process talks by token only."""
    if not asks_for_tokens():
        raise UserError("ray", "without tokens anybody could run programs on the cluster; set RAY_AUTH_MODE=token on every node")
