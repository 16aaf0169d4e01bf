"""The walls and the keys: who is let in, what another's key sees (nothing), and what browsers are told."""

import re
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute
from web import MENU, ORDER, Site, quick_folder, site

from sotediffusion.serve.app import inner
from sotediffusion.serve.doors import fal_orders
from sotediffusion.serve.menu import Menu
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.jobs import LOCAL, Job, JobState
from sotediffusion.serve.walls import callers
from sotediffusion.serve.walls.callers import Doorkeeper, key_in
from sotediffusion.serve.walls.certificates import self_signed
from sotediffusion.serve.walls.duties import Duties
from sotediffusion.serve.walls.security import Walls
from sotediffusion.serve.walls.signing import Seal
from sotediffusion.types import UserError

OPEN = {  # what anybody may see without a key: nothing of anybody's jobs
    "/api/v1/about", "/api/v1/session", "/healthz", "/readyz", "/license", "/source", "/pictures/{name:path}",
    "/.well-known/jwks.json",
}  # fmt: skip
PROXY = "/api/fal/proxy"
DRAW = ("/stream", "/stable-cascade", "/sote-diffusion", "txt2img", "img2img", "/generations", "/jobs")


@pytest.fixture(scope="module")
def keyed() -> Any:
    with quick_folder() as folder, site(folder, asks=True) as made:
        yield made


@pytest.fixture(scope="module")
def plain() -> Any:
    with quick_folder() as folder, site(folder, walls=Walls(("draw.example",), ("https://page.example",), body=5000)) as made:
        yield made


# Keys


def test_without_a_key_nothing_of_jobs_is_shown_and_with_one_it_is(keyed: Site) -> None:
    id, secret = keyed.key()["Authorization"].removeprefix("Bearer ").split(":")
    ways = [{"Authorization": f"Bearer {id}:{secret}"}, {"Authorization": f"Key {id}:{secret}"},
            {"Authorization": httpx2.BasicAuth(id, secret)._auth_header}]  # fmt: skip
    for headers in ways:
        assert keyed.client.get("/api/v1/jobs", headers=headers).status_code == 200
    wrong = ["", "Bearer", f"Bearer {id}:{secret}x", f"Bearer {secret}", "Basic !!!", "Bearer a:b\x80", f"Key :{secret}"]
    wrong.append("Bearer " + "a" * 9999)
    for value in wrong:
        headers = {"Authorization": value.encode("latin-1")}  # type: ignore[dict-item]
        reply = keyed.client.get("/api/v1/jobs", headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized"), value
    assert keyed.client.get("/api/v1/jobs").status_code == 401
    assert keyed.client.get("/api/v1/about").json()["scopes"] == []


def test_a_revoked_key_opens_nothing_from_then_on_nor_does_its_cookie(keyed: Site) -> None:
    headers = keyed.key()
    text = headers["Authorization"].removeprefix("Bearer ")
    entered = keyed.client.post("/api/v1/session", json={"key": text})
    cookie = {"Cookie": entered.headers["set-cookie"].partition(";")[0]}
    for shown in (headers, cookie):
        assert httpx2.get(f"{keyed.base}/api/v1/jobs", headers=shown).status_code == 200
    keyed.keys.revoke(text.partition(":")[0])
    for shown in (headers, cookie):
        assert httpx2.get(f"{keyed.base}/api/v1/jobs", headers=shown).status_code == 401


def test_the_page_gets_a_cookie_that_scripts_cannot_read_and_other_sites_cannot_send(keyed: Site) -> None:
    text = keyed.key()["Authorization"].removeprefix("Bearer ")
    reply = httpx2.post(f"{keyed.base}/api/v1/session", json={"key": text})
    assert reply.status_code == 204
    words = {part.strip().lower().partition("=")[0] for part in reply.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite", "max-age", "path"} <= words and "SameSite=strict" in reply.headers["set-cookie"]
    assert text.partition(":")[2] not in reply.headers["set-cookie"]
    value = reply.headers["set-cookie"].partition(";")[0]
    id, expires, signature = value.partition("=")[2].split(".")
    other = keyed.key()["Authorization"].removeprefix("Bearer ").partition(":")[0]
    forged = [f"{other}.{expires}.{signature}", f"{id}.{int(expires) + 1}.{signature}", f"{id}.{expires}.", f"{id}..{signature}"]
    for bad in forged:
        reply = httpx2.get(f"{keyed.base}/api/v1/jobs", headers={"Cookie": f"sote_session={bad}"})
        assert reply.status_code == 401
    for body in ({"key": text + "x"}, {"key": 5}, {}):
        assert httpx2.post(f"{keyed.base}/api/v1/session", json=body).status_code == 401


def test_scopes_are_asked_for(keyed: Site) -> None:
    draws, watches = keyed.key(), keyed.key("ops", ("admin",))
    assert keyed.client.get("/metrics", headers=draws).status_code == 403
    assert keyed.client.get("/metrics", headers=watches).status_code == 200
    assert keyed.client.post("/api/v1/jobs", json=ORDER, headers=watches).status_code == 403


def test_only_an_operators_key_puts_jobs_before_those_of_other_keys(keyed: Site) -> None:
    draws, runs = keyed.calling(keyed.key()), keyed.calling(keyed.key("ops", ("generate", "admin")))
    reply = draws.client.post("/api/v1/jobs", json=ORDER | {"priority": 1})
    assert (reply.status_code, reply.json()["error"]["field"]) == (403, "priority") and "admin" in reply.text
    assert [draws.submit(priority=low)["priority"] for low in (0, -5)] == [0, -5]
    assert runs.submit(priority=100)["position"] == 0
    for made in (draws, runs):
        for job in made.client.get("/api/v1/jobs").json()["jobs"]:
            made.client.post(f"/api/v1/jobs/{job['id']}/cancel")


def routes(made: Site) -> list[tuple[str, str]]:
    """Every method and path that the app answers, whichever dialect it is of."""
    found = [(method, route.path) for route in _all(inner(made.house).routes) for method in route.methods or ()]
    assert len(found) > 20
    return found


def _all(entries: Any) -> list[APIRoute]:
    found = []
    for entry in entries:
        if isinstance(entry, APIRoute):
            found.append(entry)
        elif hasattr(entry, "original_router"):
            found += _all(entry.original_router.routes)
    return found


def test_another_key_sees_and_changes_nothing_by_any_route(keyed: Site) -> None:
    ann, ben = keyed.calling(keyed.key("ann")), keyed.calling(keyed.key("ben", ("generate", "admin")))
    drawn = ann.submit(prompt="a secret hat")
    keyed.hand.draw()
    picture = ann.client.get(f"/api/v1/jobs/{drawn['id']}").json()["pictures"][0]
    waiting = ann.submit(prompt="another secret hat")
    before = [keyed.store.get(id) for id in (drawn["id"], waiting["id"])]
    body = {"before": None, "picture": picture["name"], "favourite": True, "text": "x"}
    for method, path in routes(keyed):
        sent: dict[str, Any] = {"json": body} if method in ("POST", "PUT") else {}
        for id in (drawn["id"], waiting["id"]) if "{id}" in path or path == PROXY else ("",):
            if path == PROXY:
                cancel = "/cancel" * (method == "PUT")
                sent["headers"] = {"x-fal-target-url": f"https://queue.fal.run/fal-ai/stable-cascade/requests/{id}{cancel}"}
            url = path.replace("{id}", id).replace("{name:path}", picture["name"])
            if path not in OPEN:
                reply = keyed.client.request(method, url, **sent)
                assert reply.status_code == 401 or (path == PROXY and reply.status_code == 405), (method, path)
            if path == "/api/v1/events" or (method == "POST" and path.endswith(DRAW)):
                continue  # an endless stream, tried below, and what would draw ben's own
            reply = ben.client.request(method, url, **sent)
            text = reply.text.replace(picture["name"], "") if picture["name"] in url else reply.text
            assert "secret" not in text and picture["name"] not in text, (method, path)
            if id or "{" in path:
                assert reply.status_code in (404, 405), (method, path, reply.status_code)
    assert [keyed.store.get(id) for id in (drawn["id"], waiting["id"])] == before
    (event, job), *_ = ann.events("/api/v1/events", 1)
    assert job["id"] == waiting["id"]
    mine = ben.submit(prompt="bens")
    told = ben.events("/api/v1/events", 1)
    assert told[0][1]["id"] == mine["id"]


def test_an_order_of_jobs_cannot_be_moved_before_anothers(keyed: Site) -> None:
    ann, ben = keyed.calling(keyed.key("ann")), keyed.calling(keyed.key("ben"))
    theirs, mine = ann.submit()["id"], ben.submit()["id"]
    assert ben.client.post(f"/api/v1/jobs/{mine}/move", json={"before": theirs}).status_code == 404
    assert ben.client.post("/api/v1/jobs", json=ORDER, headers={"Idempotency-Key": "same"}).json()["id"] != (
        ann.client.post("/api/v1/jobs", json=ORDER, headers={"Idempotency-Key": "same"}).json()["id"]
    )


def test_an_address_of_a_picture_is_signed_for_it_alone_and_expires(keyed: Site) -> None:
    ann = keyed.calling(keyed.key("ann"))
    id = ann.submit()["id"]
    while (job := keyed.hand.draw()).id != id:
        pass
    url = ann.client.get(f"/api/v1/jobs/{id}").json()["pictures"][0]["url"]
    assert keyed.client.get(url).status_code == 200  # whoever has the address
    name, expires, signature = re.fullmatch(r"/pictures/(.*)\?expires=(\d+)&signature=(\w+)", url).groups()  # type: ignore[union-attr]
    other = job.pictures[0].name.replace(id, "0" * 32)  # type: ignore[index]
    bad = [
        (name, str(int(expires) + 1), signature), (name, expires, signature[:-1] + "x"), (name, expires, ""),
        (other, expires, signature), (name, "-1", signature), ("../../jobs.sqlite", expires, signature),
        (name + "%00", expires, signature),
        (name, "9" * 40, signature), (name, "abc", signature),
    ]  # fmt: skip
    for path, end, mark in bad:
        assert keyed.client.get(f"/pictures/{path}?expires={end}&signature={mark}").status_code in (404, 422), (path, end, mark)
    assert keyed.client.get(f"/pictures/{name}").status_code == 404


def test_a_seal_holds_until_it_expires_and_for_its_purpose_only(tmp_path: Path) -> None:
    now = [1000.0]
    database = Database(tmp_path / "jobs.sqlite")
    seal = Seal(database, "pictures", lambda: now[0])
    expires, signature = seal.sign("name", 90, 60)
    assert expires == 1140 and seal.sign("name", 90, 60) == (expires, signature)
    assert seal.holds("name", expires, signature) and not seal.holds("nam", expires, signature)
    assert not Seal(database, "cookies", lambda: now[0]).holds("name", expires, signature)
    assert Seal(Database(tmp_path / "jobs.sqlite"), "pictures", lambda: now[0]).holds("name", expires, signature)
    now[0] = 1141.0
    assert not seal.holds("name", expires, signature)
    assert not Seal(Database(tmp_path / "others.sqlite"), "pictures", lambda: 0.0).holds("name", expires, signature)
    assert not seal.holds("\ud800", 2000, "\ud800")


# Walls


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io", "[::1", "xn--", "a b"])
def test_a_name_that_is_not_ours_is_not_answered(plain: Site, host: str) -> None:
    reply = plain.client.get("/api/v1/jobs", headers={"Host": host})
    assert reply.status_code in (400, 421)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "192.168.1.7:7860", "draw.example", "DRAW.example:443"])
def test_our_names_and_bare_addresses_are(plain: Site, host: str) -> None:
    assert plain.client.get("/api/v1/jobs", headers={"Host": host}).status_code == 200


FOREIGN = [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}, {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://[", "Sec-Fetch-Mode": "cors"},
]  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN)
def test_pages_of_other_origins_change_nothing_and_read_nothing(plain: Site, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/api/v1/jobs"), ("POST", "/api/v1/jobs/x/cancel"), ("DELETE", "/api/v1/session")):
        assert plain.client.request(method, path, headers=headers, json=ORDER).status_code == 403
    if "Origin" in headers:
        assert plain.client.get("/api/v1/jobs", headers=headers).status_code == 403
    walked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert plain.client.get("/docs", headers=walked).status_code == 200  # a link that somebody follows


def test_our_own_page_and_allowed_origins_may(plain: Site) -> None:
    ours = {"Origin": plain.base, "Sec-Fetch-Site": "same-origin"}
    assert plain.client.post("/api/v1/jobs", headers=ours, json=ORDER).status_code == 202
    allowed = {"Origin": "https://page.example", "Sec-Fetch-Site": "cross-site"}
    reply = plain.client.post("/api/v1/jobs", headers=allowed, json=ORDER)
    assert reply.status_code == 202 and reply.headers["access-control-allow-origin"] == "https://page.example"
    asked = allowed | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    reply = plain.client.options("/api/v1/jobs", headers=asked)
    assert reply.status_code == 200 and "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_bodies_that_a_foreign_form_can_send_are_not_taken(plain: Site, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    reply = plain.client.post("/api/v1/jobs", content=b'{"prompt": "x"}', headers=headers)
    assert reply.status_code == 415
    reply = plain.client.post("/api/v1/jobs", content=iter([b'{"prompt"', b': "x"}']), headers=headers)
    assert reply.status_code == 415


def test_a_body_is_no_larger_than_allowed_announced_or_not(plain: Site) -> None:
    large = b'{"prompt": "' + b"x" * 6000 + b'"}'
    headers = {"Content-Type": "application/json"}
    for content in (large, iter([large[:3000], large[3000:]])):
        reply = plain.client.post("/api/v1/jobs", content=content, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")


def test_a_client_that_stops_in_the_middle_of_its_body_is_given_up() -> None:
    with quick_folder() as folder, site(folder, walls=Walls(patience_s=0.2)) as made:
        host, port = made.base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 20) as wire:
            head = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
            wire.sendall(head.encode() + b'{"pro')
            assert wire.recv(100).startswith(b"HTTP/1.1 408")


def test_every_reply_has_the_headers_that_browsers_heed(plain: Site) -> None:
    for path in ("/", "/healthz", "/api/v1/jobs", "/nothing", "/docs", "/pictures/x"):
        headers = plain.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert "server" not in headers or "uvicorn" in headers["server"]  # sote serve leaves it out
    assert plain.client.get("/api/v1/jobs").headers["cache-control"] == "no-store"


def test_a_mistake_of_ours_tells_nothing_of_itself(plain: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("the secret path /home/ann")

    monkeypatch.setattr(plain.store, "find", broken)
    reply = plain.client.get("/api/v1/jobs")
    assert reply.status_code == 500 and "secret" not in reply.text and reply.json()["error"]["code"] == "internal"
    assert "content-security-policy" in reply.headers


def test_numbers_of_routes_never_name_what_callers_asked_for(plain: Site) -> None:
    plain.client.get("/api/v1/jobs/" + "f" * 32)
    plain.client.get("/made/up/address")
    text = plain.client.get("/metrics").text
    assert 'route="/api/v1/jobs/{id}"' in text and "f" * 32 not in text and "made" not in text
    assert 'sote_jobs{state="queued"}' in text and "sote_worker_ready 1.0" in text


def test_numbers_of_jobs_name_the_dialect_and_nothing_that_its_caller_said(plain: Site) -> None:
    said = fal_orders.Memo(sync=True, base="https://inner.example").words()
    ended = Job("a" * 32, LOCAL, {}, "tiny", origin=said, state=JobState.CANCELLED)
    plain.house.metrics.note(ended)
    text = plain.client.get("/metrics").text
    assert 'sote_jobs_ended_total{model="tiny",origin="fal",state="cancelled"} 1.0' in text
    assert "sync" not in text and "inner" not in text


# Keys in headers, licences, certificates


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer a:b", "a:b"), ("Key a:b", "a:b"), ("key  a:b ", "a:b"), ("Basic YTpi", "a:b"), ("Basic", ""), ("Basic %", ""),
     ("Basic /w==", ""), ("a:b", ""), ("", "")],
)  # fmt: skip
def test_keys_are_read_out_of_headers(header: str, key: str) -> None:
    assert key_in(header) == key


def test_a_model_whose_licence_forbids_it_is_offered_to_others_only_when_the_operator_acknowledges_that() -> None:
    tiny, other = (Menu({name: MENU.models[name]}, (), ()) for name in ("tiny", "other"))
    assert Duties(tiny).check_public(False) == []
    with pytest.raises(UserError, match="public-licence-acknowledged"):
        Duties(other).check_public(False)
    with pytest.raises(UserError, match="source"):
        Duties(other).check_public(True)
    assert "acknowledged" in Duties(other, "https://example.org/other").check_public(True)[0]
    with pytest.raises(UserError, match="address"):
        Duties(other, "javascript:alert(1)")
    assert "Copyright (c) Stability AI Ltd" in Duties(other).texts() and "https://example.org/other" in (
        Duties(other, "https://example.org/other").sources()
    )


def test_a_certificate_is_made_once_kept_and_made_anew_for_other_names(tmp_path: Path) -> None:
    import ssl

    first, key = self_signed(tmp_path / "tls", ["draw.example"])
    content = first.read_bytes()
    assert key.stat().st_mode & 0o77 == 0
    assert self_signed(tmp_path / "tls", ["draw.example"])[0].read_bytes() == content
    self_signed(tmp_path / "tls", ["192.168.1.7"])
    assert first.read_bytes() != content
    context = ssl.create_default_context(cafile=str(first))
    context.verify_mode = ssl.CERT_REQUIRED
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(first, key)


def test_the_first_key_is_asked_for_without_a_new_start_and_does_not_see_what_was_made_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(callers, "LOOK_S", 0.0)
    with quick_folder() as folder, site(folder) as made:
        id = made.submit()["id"]
        headers = made.key()
        assert made.client.get(f"/api/v1/jobs/{id}").status_code == 401
        assert made.client.get("/api/v1/jobs", headers=headers).json()["jobs"] == []


def test_where_no_keys_are_asked_for_everybody_is_the_local_owner(plain: Site) -> None:
    caller = Doorkeeper(plain.keys, asks=False).caller(None, None)
    assert caller is not None and caller.owner == "local"
