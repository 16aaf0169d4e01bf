"""Webhooks: told at least once under one id, signed, and never to an address inside."""

import base64
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from job_places import Clock, order, place, quick, server  # noqa: F401  fixtures
from killed_workers import start

from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import Failure
from sotediffusion.serve.storage.store import JobStore
from sotediffusion.serve.webhooks import delivery as webhooks
from sotediffusion.serve.webhooks.addresses import check_url, is_public, resolve
from sotediffusion.serve.webhooks.delivery import Sender, Signer
from sotediffusion.serve.webhooks.outbox import RETRIES, Outbox
from sotediffusion.types import UserError

# ruff: noqa: F811  fixtures are arguments


class Receiver:
    """What arrived, and how it is answered: `answer(handler)` after the body was read."""

    def __init__(self, answer):
        self.answer, self.arrived = answer, []


@contextmanager
def receiving(answer=lambda handler: reply(handler, 200), tls=None):
    receiver = Receiver(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.arrived.append((self.path, dict(self.headers), body))
            receiver.answer(self)

        do_GET = do_POST

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    receiver.host = f"127.0.0.1:{server.server_port}"
    receiver.url = f"http://{receiver.host}/hook?token=1"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


def reply(handler, status, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def body(job):
    return json.dumps({"request_id": job.id, "state": job.state}).encode()


def ended(store, url):
    """A job that ended and whose caller is to be told at `url`."""
    store.submit(order(webhook=url))
    [job] = store.claim("w", ["m"], 1, 30)
    store.fail(job.id, job.fence, Failure("bad", "It is bad."))
    return store.get(job.id)


@pytest.fixture
def store(place):
    return JobStore(Database(place, Clock()))


def sender(store, *allowed):
    return Sender(Outbox(store.database), Signer(store.database), body, allowed)


def later(store, seconds):
    store.database._clock.now += seconds


def test_the_end_of_a_job_is_told_once_and_signed(store):
    with receiving() as receiver:
        job = ended(store, receiver.url)
        ended(store, None)
        assert sender(store, "127.0.0.1").send_due() == 1
        later(store, 10_000)
        assert sender(store, "127.0.0.1").send_due() == 0
    [(path, headers, sent)] = receiver.arrived
    assert path == "/hook?token=1" and json.loads(sent) == {"request_id": job.id, "state": "failed"}
    assert headers["Content-Type"] == "application/json" and headers["Host"] == receiver.host
    assert headers["X-Fal-Webhook-Request-Id"] == job.id and headers["X-Fal-Webhook-User-Id"] == "anna"
    check_signature(Signer(store.database).public_keys(), headers, sent)
    with pytest.raises(InvalidSignature):
        check_signature(Signer(store.database).public_keys(), headers, sent + b" ")


def check_signature(jwks, headers, sent):
    """As a receiver does it, from what is published and what arrived."""
    [key] = jwks["keys"]
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
    words = [headers[f"X-Fal-Webhook-{word}"] for word in ("Request-Id", "User-Id", "Timestamp")]
    assert abs(int(words[2]) - time.time()) < 300
    message = "\n".join([*words, hashlib.sha256(sent).hexdigest()]).encode()
    public.verify(bytes.fromhex(headers["X-Fal-Webhook-Signature"]), message)


def test_what_does_not_arrive_is_tried_again_ever_more_slowly_and_then_given_up(store):
    with receiving(lambda handler: reply(handler, 500)) as receiver:
        job, hook = ended(store, receiver.url), sender(store, "127.0.0.1")
        assert hook.send_due() == 1
        for number in range(RETRIES):
            later(store, 7 * 2**number - 1)
            assert hook.send_due() == 0
            later(store, 1)
            assert hook.send_due() == 1
        later(store, 100_000)
        assert hook.send_due() == 0
    assert len(receiver.arrived) == RETRIES + 1
    assert {headers["X-Fal-Webhook-Request-Id"] for _, headers, _ in receiver.arrived} == {job.id}
    assert [stale.id for stale in store.stale(60)] == [job.id]


def test_a_job_is_not_forgotten_while_its_word_is_still_to_be_sent(store):
    with receiving() as receiver:
        job = ended(store, receiver.url)
        later(store, 1000)
        assert store.stale(60) == []
        sender(store, "127.0.0.1").send_due()
        assert [stale.id for stale in store.stale(60)] == [job.id]


def send(place, host):
    store = JobStore(Database(place))
    sender(store, host).send_due()
    time.sleep(300)


def test_a_sender_killed_before_it_could_note_the_reply_tells_again_under_the_same_id(place):
    with receiving() as receiver:
        store = JobStore(Database(place))
        job = ended(store, receiver.url)
        store.database.close()
        known = threading.Event()  # who is to be killed
        receiver.answer = lambda handler: known.wait(60) and os.kill(killed.pid, signal.SIGKILL)
        killed = start(send, place, receiver.host)
        known.set()
        killed.join(120)
        assert killed.exitcode == -signal.SIGKILL
        receiver.answer = lambda handler: reply(handler, 200)
        clock = Clock()
        clock.now = time.time()
        again = JobStore(Database(place, clock))
        assert sender(again, receiver.host).send_due() == 0  # it may still be on its way
        clock.now += 61
        assert sender(again, receiver.host).send_due() == 1
    assert [headers["X-Fal-Webhook-Request-Id"] for _, headers, _ in receiver.arrived] == [job.id, job.id]


def test_two_senders_do_not_send_the_same(store):
    with receiving() as receiver:
        ended(store, receiver.url)
        assert len(Outbox(store.database).take(5)) == 1
        assert Outbox(store.database).take(5) == []


def test_a_late_failure_does_not_undo_anothers_success(store):
    outbox = Outbox(store.database)
    job = ended(store, "https://example.org/")
    outbox.sent(job.id)
    outbox.failed(job.id, "status 500")
    later(store, 10_000)
    assert outbox.take(5) == []


def test_a_redirect_is_not_followed(store):
    with receiving(lambda handler: reply(handler, 302, Location=f"http://{receiver.host}/inside")) as receiver:
        ended(store, receiver.url)
        sender(store, "127.0.0.1").send_due()
        assert [path for path, _, _ in receiver.arrived] == ["/hook?token=1"]


def test_a_reply_that_drips_is_cut_off(store, monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.5)

    def drip(handler):
        for _ in range(1200):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
            handler.wfile.flush()
            time.sleep(0.05)

    with receiving(drip) as receiver:
        ended(store, receiver.url)
        begun = time.monotonic()
        assert sender(store, "127.0.0.1").send_due() == 1
        assert time.monotonic() - begun < 30  # the drip lasts sixty
        later(store, 7)
        assert len(Outbox(store.database).take(5)) == 1


def test_a_word_that_cannot_be_written_does_not_hold_up_the_others(store):
    with receiving() as receiver:
        bad, good = ended(store, receiver.url), ended(store, receiver.url)

        def write(job):
            return body(job) if job.id == good.id else b"%d" % None

        Sender(Outbox(store.database), Signer(store.database), write, ["127.0.0.1"]).send_due()
        assert [headers["X-Fal-Webhook-Request-Id"] for _, headers, _ in receiver.arrived] == [good.id]
        later(store, 7)
        assert [delivery.job.id for delivery in Outbox(store.database).take(5)] == [bad.id]


def test_it_is_sent_from_a_thread_until_told_to_stop(store, monkeypatch):
    monkeypatch.setattr(webhooks, "_PAUSE", 0.01)
    with receiving() as receiver:
        stop = threading.Event()
        thread = threading.Thread(target=sender(store, "127.0.0.1").run, args=(stop,))
        thread.start()
        jobs = {ended(store, receiver.url).id for _ in range(12)}
        end = time.monotonic() + 60
        while len(receiver.arrived) < 12 and time.monotonic() < end:
            time.sleep(0.01)
        stop.set()
        thread.join(60)
    assert sorted(headers["X-Fal-Webhook-Request-Id"] for _, headers, _ in receiver.arrived) == sorted(jobs)


def test_an_inner_address_is_never_connected_to(store, monkeypatch):
    with receiving() as receiver:
        ended(store, f"https://{receiver.host}/")
        ended(store, f"https://rebound.example:{receiver.host.partition(':')[2]}/")
        answers = iter([[], ["93.184.215.14", "127.0.0.1"]])
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [(0, 0, 0, "", (ip, 0)) for ip in next(answers)])
        monkeypatch.setattr(socket, "create_connection", lambda *arguments: pytest.fail("connected"))
        assert sender(store).send_due() == 2
        assert receiver.arrived == []


def test_the_address_that_was_checked_is_the_one_connected_to(store, monkeypatch):
    """A name that answers with a public address first and with an inner one when asked again."""
    asked, connected = [], []

    def answer(host, port, **more):
        asked.append(host)
        return [(0, 0, 0, "", ("93.184.215.14" if len(asked) == 1 else "127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)

    def connect(address, timeout):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    ended(store, "https://rebound.example/hook")
    sender(store).send_due()
    assert asked == ["rebound.example"] and connected == [("93.184.215.14", 443)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for the name localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    paths = (folder / "cert.pem", folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-out", paths[0], "-keyout", paths[1]]
    subprocess.run([*command.split(), *more], check=True, capture_output=True)
    return paths


def test_tls_is_checked_against_the_name_although_an_address_is_connected_to(store, certificate, monkeypatch):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    with receiving(tls=tls) as receiver:
        port = receiver.host.partition(":")[2]
        ended(store, f"https://localhost:{port}/")
        sender(store, "localhost", "127.0.0.1").send_due()
        assert receiver.arrived == []  # nobody vouches for this certificate
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        later(store, 7)
        ended(store, f"https://127.0.0.1:{port}/")
        assert sender(store, "localhost", "127.0.0.1").send_due() == 2
        [(_, headers, _)] = receiver.arrived  # and it is for no other name
        assert headers["Host"] == f"localhost:{port}"


INNER = """
127.0.0.1 10.1.2.3 192.168.0.1 172.16.5.5 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 224.0.1.1 255.255.255.255 240.0.0.1
192.0.2.1 198.18.0.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 64:ff9b::7f00:1
64:ff9b:1::1 2002:7f00:1:: 2001::1 2001:db8::1 fec0::1
""".split()


@pytest.mark.parametrize("address", INNER)
def test_no_inner_address_counts_as_public(address):
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(UserError):
        check_url(f"https://{host}/")


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["", "x", "http://example.org/", "ftp://example.org/", "https://", "https://user@example.org/", "https://u:secret@example.org/",
     "https://localhost/", "https://localhost./", "https://a.localhost/", "https://printer.local/", "https://example.org:99999/", "https://example.org:x/",
     "https://example.org:0/", "https://[::1/", "https://ex ample.org/", "https://example.org/\r\nX: y", "https://exämple.org/",
     "file:///etc/passwd", "https://example.org/" + "x" * 2000],
)  # fmt: skip
def test_what_is_no_public_https_address_is_refused_at_once(url):
    with pytest.raises(UserError) as refusal:
        check_url(url)
    assert refusal.value.field == "webhook"


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
def test_an_inner_address_written_oddly_is_found_when_it_is_resolved(host):
    with pytest.raises((UserError, PermissionError)):
        resolve(check_url(f"https://{host}/"))


def test_what_the_operator_allows_by_name_may_be_inside_and_without_tls():
    check_url("http://127.0.0.1:8000/", ["127.0.0.1:8000"])
    check_url("http://hooks.lan/x", ["hooks.lan"])
    with pytest.raises(UserError):
        check_url("http://127.0.0.1:8001/", ["127.0.0.1:8000"])


@given(st.text(), st.lists(st.text(), max_size=2))
def test_any_text_is_either_parts_or_a_sentence(url, allowed):
    try:
        assert check_url(url, allowed).hostname
    except UserError as refusal:
        assert "\n" not in str(refusal)
