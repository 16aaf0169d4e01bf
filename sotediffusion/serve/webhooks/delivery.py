"""Webhooks: the end of a job told to the address that its caller gave, at least once, signed, and to no inner address."""

import base64
import hashlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from logging import getLogger
from threading import Event, Timer
from typing import Any
from urllib.parse import SplitResult

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Job, StoreDown
from sotediffusion.serve.storage.vault import shared_secret
from sotediffusion.serve.webhooks.addresses import check_url, resolve
from sotediffusion.serve.webhooks.outbox import Delivery, Outbox
from sotediffusion.types import UserError

TIMEOUT = 15.0  # s for all of one try
_AT_ONCE = 8  # so that a slow receiver holds up few others
_PAUSE = 1.0  # s between looks into the outbox
log = getLogger(__name__)


class Signer:
    """Signs what is sent, so that a receiver knows whom it is from (Ed25519; one key for all gateways of a database)."""

    def __init__(self, database: Database):
        self._key = Ed25519PrivateKey.from_private_bytes(shared_secret(database, "webhooks"))

    def headers(self, job: Job, body: bytes, now: float) -> dict[str, str]:
        """fal's headers: over request id, owner, time and the SHA-256 of the body, joined by line feeds."""
        words = {"Request-Id": job.id, "User-Id": job.owner, "Timestamp": f"{now:.0f}"}
        signed = "\n".join([*words.values(), hashlib.sha256(body).hexdigest()]).encode()
        return {f"X-Fal-Webhook-{word}": value for word, value in (words | {"Signature": self._key.sign(signed).hex()}).items()}

    def public_keys(self) -> dict[str, Any]:
        """What `/.well-known/jwks.json` says: the key to check signatures with (RFC 8037)."""
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        x = base64.urlsafe_b64encode(public).decode().rstrip("=")
        return {"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": hashlib.sha256(public).hexdigest()[:16], "x": x}]}


class Sender:
    """Empties the outbox. `body` writes what a job's receiver is told; `allowed` are hosts that may be private or without TLS."""

    def __init__(self, outbox: Outbox, signer: Signer, body: Callable[[Job], bytes], allowed: Collection[str] = ()):
        self._outbox, self._signer, self._body, self._allowed = outbox, signer, body, frozenset(allowed)
        self._tls = ssl.create_default_context()

    def run(self, stop: Event) -> None:
        """Send what is due until told to stop; a database that is away or full for a while is waited for."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="webhook") as pool:
            while not stop.wait(_PAUSE):
                try:
                    with suppress(StoreDown, UserError):
                        list(pool.map(self._send, self._outbox.take(_AT_ONCE)))
                except Exception:
                    log.exception("webhooks cannot be sent, and are tried again")

    def send_due(self) -> int:
        """Send what is due now, one after the other; how many were tried."""
        due = self._outbox.take(_AT_ONCE)
        for delivery in due:
            self._send(delivery)
        return len(due)

    def _send(self, delivery: Delivery) -> None:
        try:
            why = self._try(delivery)
        except Exception as error:  # whatever is wrong with this one must not hold up the others
            why = f"{type(error).__name__}: {error}"
        if why is None:
            self._outbox.sent(delivery.job.id)
        else:
            self._outbox.failed(delivery.job.id, why)

    def _try(self, delivery: Delivery) -> str | None:
        """Why it did not arrive; None when it did, which only a 2xx says. A redirect is not followed."""
        parts = check_url(delivery.url, self._allowed)
        body = self._body(delivery.job)
        headers = {"Content-Type": "application/json", "User-Agent": "sotediffusion"}
        headers |= self._signer.headers(delivery.job, body, time.time())
        status = _post(parts, resolve(parts, self._allowed), headers, body, self._tls)
        return None if 200 <= status < 300 else f"status {status}"


def _post(parts: SplitResult, address: tuple[str, int], headers: dict[str, str], body: bytes, tls: ssl.SSLContext) -> int:
    """The status of a POST to a URL at this very address; what else is replied is not read."""
    wire = socket.create_connection(address, TIMEOUT)
    if parts.scheme == "https":
        wire = tls.wrap_socket(wire, server_hostname=parts.hostname, do_handshake_on_connect=False)
    late = Timer(TIMEOUT, lambda: socket.socket.shutdown(wire, socket.SHUT_RDWR))  # a reply that drips is cut off all the same
    late.daemon = True
    connection = http.client.HTTPConnection(parts.netloc)
    connection.sock = wire
    try:
        late.start()
        if isinstance(wire, ssl.SSLSocket):
            wire.do_handshake()
        connection.request("POST", f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}", body, headers)
        return connection.getresponse().status
    finally:
        late.cancel()
        connection.close()
