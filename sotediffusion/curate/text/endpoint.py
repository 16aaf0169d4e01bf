"""Asks any server that speaks OpenAI's chat protocol, such as vLLM: many pictures at once, patiently, the key never shown.

Format: POST {url}/chat/completions with the picture as a data URL; the answer is choices[0].message.content.
"""

import base64
import json
import math
import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sotediffusion.curate.text.answers import Answer, Asked, EndpointSettings, TextSettings, opened
from sotediffusion.types import UserError

KEY_VARIABLE = "SOTE_ENDPOINT_KEY"  # where the command line looks for the key
HIDDEN = "***"
JPEG_QUALITY = 92
LONGEST_REPLY = 4 * 2**20  # bytes
LATER = {408, 409, 425, 429, 500, 502, 503, 504}  # worth another try
SETTINGS_WRONG = {
    301: "it moved", 302: "it moved", 307: "it moved", 308: "it moved", 401: "the key is missing or wrong",
    403: "the key may not do this", 404: "no such address or model", 405: "this is no chat endpoint",
}  # fmt: skip
MOST_REFUSED = 5  # pictures refused one after the other before the request itself must be wrong


class Secret:
    """A key that shows as *** wherever it is printed or written; only `reveal` gives it."""

    def __init__(self, value: str):
        self._value = value

    def reveal(self) -> str:
        """The key itself, for a request's header."""
        return self._value

    def hide(self, text: str) -> str:
        """The text with every occurrence of the key as ***."""
        return text.replace(self._value, HIDDEN)

    def __repr__(self) -> str:
        return HIDDEN


def read_key(key_file: Path | None, environment: Mapping[str, str]) -> Secret | None:
    """The key from a file, else from the variable SOTE_ENDPOINT_KEY of `environment`, else None.

    Raises UserError, without the key, for a file that cannot be read or holds no key of one printable line.
    """
    if key_file is None:
        value, where = environment.get(KEY_VARIABLE, ""), KEY_VARIABLE
    else:
        try:
            value, where = key_file.expanduser().read_text(encoding="utf-8"), str(key_file)
        except (OSError, UnicodeDecodeError):
            raise UserError("endpoint.key_file", f"{key_file} cannot be read; name a file that holds only the key") from None
    value = value.strip()
    if not value and key_file is None:
        return None
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise UserError("endpoint.key_file", f"{where} does not hold one key in plain letters; put nothing else there")
    return Secret(value)


def check_endpoint(settings: EndpointSettings, field: str) -> None:
    """Raise UserError for an address that is none or carries a secret, and for numbers that cannot work."""
    parts = urlsplit(settings.url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"{field}.url", "a user, a key or a query has no place in the address; put the key into a file "
                        f"(key_file) or into {KEY_VARIABLE}")  # fmt: skip
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{field}.url", f"{settings.url[:80]!r} is no address; write for example http://127.0.0.1:8000/v1")
    if settings.concurrency < 1 or settings.retries < 0 or settings.timeout <= 0 or settings.backoff < 0:
        raise UserError(field, f"concurrency {settings.concurrency}, retries {settings.retries}, timeout {settings.timeout:g}, "
                        f"backoff {settings.backoff:g}: from 1, above 0 and twice from 0 is allowed")  # fmt: skip


def host_elsewhere(settings: EndpointSettings) -> str | None:
    """The server's host; None where it is the machine that asks."""
    host = urlsplit(settings.url).hostname or ""
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return None if here else host


class Endpoint:
    """A reader over HTTP. Answers arrive in any order; at most `concurrency` pictures are open or under way."""

    def __init__(self, settings: TextSettings, key: Secret | None):
        import httpx2

        self.settings, self.endpoint = settings, settings.endpoint
        self.key = key or read_key(self.endpoint.key_file, {})
        headers = {"Authorization": f"Bearer {self.key.reveal()}"} if self.key else {}
        limits = httpx2.Limits(max_connections=self.endpoint.concurrency)
        timeout = httpx2.Timeout(self.endpoint.timeout, connect=min(15.0, self.endpoint.timeout), pool=None)
        # A transport of its own takes no proxy from the environment: what is for this machine must not pass another one.
        own = None if host_elsewhere(self.endpoint) else httpx2.HTTPTransport(limits=limits)
        self.client = httpx2.Client(headers=headers, limits=limits, timeout=timeout, follow_redirects=False, transport=own)
        self.address = self.endpoint.url.rstrip("/") + "/chat/completions"
        self.refused = 0  # in a row
        self.stop = threading.Event()

    def read(self, asked: Iterable[Asked]) -> Iterator[tuple[str, Answer]]:
        """The answers as they come. When the step must stop, those under way are still given first."""
        self.stop.clear()
        waiting = iter(asked)
        running: dict[Future[Answer], str] = {}
        failure: UserError | None = None
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            try:
                while True:
                    while failure is None and len(running) < self.endpoint.concurrency and (one := next(waiting, None)):
                        running[pool.submit(self._answer, one)] = one[0]
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        key = running.pop(future)
                        try:
                            answer = future.result()
                        except UserError as error:
                            failure = failure or error
                            self.stop.set()
                        else:
                            yield key, answer
            finally:
                self.stop.set()
        if failure:
            raise failure

    def _answer(self, asked: Asked) -> Answer:
        picture = opened(asked[1], self.settings.long_side)
        if isinstance(picture, Answer):
            return picture
        body = self._body(picture)
        for attempt in range(self.endpoint.retries + 1):
            reply, problem, pause = self._post(body)
            if reply is not None:
                return reply
            last = attempt == self.endpoint.retries
            if not last and self.stop.wait(self._pause(attempt, pause, problem)):
                break
        raise UserError("endpoint", f"{self.address} gave no answer ({problem}) after {attempt + 1} tries; answers so far are "
                        "kept, run again when it works")  # fmt: skip

    def _body(self, picture: Any) -> bytes:
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.settings.question}]
        request: dict[str, Any] = {
            "model": self.settings.model, "messages": [{"role": "user", "content": content}],
            "max_tokens": self.settings.max_new_tokens, "temperature": 0,
        }  # fmt: skip
        if self.endpoint.logprobs:
            request["logprobs"] = True
        return json.dumps(request).encode()

    def _post(self, body: bytes) -> tuple[Answer | None, str, float | None]:
        """One try: an answer, or what went wrong and the seconds the server asks to wait."""
        import httpx2

        try:
            with self.client.stream("POST", self.address, content=body, headers={"Content-Type": "application/json"}) as response:
                text = _limited(response.iter_bytes())
        except httpx2.TransportError as error:
            return None, self._hidden(f"{type(error).__name__} {error}"), None
        status = response.status_code
        if status in SETTINGS_WRONG:
            raise UserError("endpoint", f"{self.address} answered {status}: {SETTINGS_WRONG[status]}; mend the url, the model "
                            f"or the key ({KEY_VARIABLE} or endpoint.key_file)")  # fmt: skip
        if status in LATER or status >= 500:
            return None, f"status {status}", retry_after(response.headers.get("retry-after"), datetime.now(UTC))
        if status != 200:
            return self._refusal(status, text), "", None
        answer = answer_of(text)
        if answer is None:
            return None, "a reply that is no chat completion", None
        self.refused = 0
        return answer, "", None

    def _refusal(self, status: int, text: str) -> Answer:
        said = self._hidden(" ".join(text.split())[:200])
        self.refused += 1
        if self.refused >= MOST_REFUSED:  # one more by now, where another thread was refused meanwhile
            raise UserError("endpoint", f"{self.address} refused {MOST_REFUSED} pictures one after the other, the last with "
                            f"status {status}: {said}; mend the settings of the step")  # fmt: skip
        return Answer(error=f"refused: status {status}: {said}")

    def _hidden(self, text: str) -> str:
        return self.key.hide(text) if self.key else text

    def _pause(self, attempt: int, asked_for: float | None, problem: str) -> float:
        """Seconds before the next try: what the server asked for, else doubled each time with a random part taken off."""
        if asked_for is not None and asked_for > self.endpoint.longest_wait:
            raise UserError("endpoint", f"{self.address} ({problem}) wants {asked_for:.0f} s of patience, more than longest_wait "
                            f"{self.endpoint.longest_wait:g}; answers so far are kept, run again then")  # fmt: skip
        backoff = min(self.endpoint.backoff * 2**attempt, self.endpoint.longest_wait) * random.uniform(0.5, 1.0)
        return backoff if asked_for is None else max(asked_for, 0.0)


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or a date (RFC 9110, 10.2.3); None where it says nothing."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def answer_of(text: str) -> Answer | None:
    """The answer in the JSON of a chat completion, its confidence the geometric mean of its tokens' probabilities where given."""
    try:
        choice = json.loads(text)["choices"][0]
        words = choice["message"]["content"]
        tokens = (choice.get("logprobs") or {}).get("content") or []
        chances = [float(token["logprob"]) for token in tokens]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    if not isinstance(words, str):
        return None
    return Answer(words, math.exp(min(0.0, sum(chances) / len(chances))) if chances else None)


def _limited(chunks: Iterator[bytes]) -> str:
    """The reply as text, cut where no honest one is that long."""
    taken = bytearray()
    for chunk in chunks:
        taken += chunk
        if len(taken) > LONGEST_REPLY:
            break
    return bytes(taken[:LONGEST_REPLY]).decode(errors="replace")
