"""API keys: shown once, kept as hashes, and of no use from the moment they are revoked."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_places import place, quick, server  # noqa: F401  fixtures

from sotediffusion.serve.storage.allowances import Allowance
from sotediffusion.serve.storage.database import Database
from sotediffusion.serve.storage.keys import KeyStore
from sotediffusion.serve.storage.vault import shared_secret
from sotediffusion.types import UserError

# ruff: noqa: F811  fixtures are arguments


@pytest.fixture
def keys(place):
    return KeyStore(Database(place))


def test_a_key_opens_what_its_scopes_say(keys):
    key, text = keys.add("ann")
    ops, other = keys.add("ops", ["admin", "generate", "admin"])
    assert keys.check(text) == key and key.scopes == ("generate",)
    assert keys.check(other) == ops and ops.scopes == ("generate", "admin")
    assert keys.all() == [key, ops]


def test_a_wrong_secret_or_anothers_opens_nothing(keys):
    (one, first), (_, second) = keys.add("one"), keys.add("two")
    secret = second.partition(":")[2]
    wrong = ["", ":", one.id, f"{one.id}:", f"{one.id}:{secret}", first[:-1], first + "x", first.upper(), f" {first}", "a:b\0"]
    assert not [text for text in wrong if keys.check(text)]


def test_no_text_at_random_opens_anything(tmp_path):
    keys = KeyStore(Database(tmp_path / "jobs.sqlite"))
    id = keys.add("ann")[0].id

    @given(st.text() | st.text().map(lambda secret: f"{id}:{secret}"))
    def check(text):
        assert keys.check(text) is None

    check()


def test_a_revoked_key_opens_nothing_for_any_gateway_at_once(keys, place):
    gateway = KeyStore(Database(place))
    key, text = keys.add("ann")
    assert gateway.check(text) == key
    assert keys.revoke(key.id) and not keys.revoke(key.id) and not keys.revoke("nobody")
    assert gateway.check(text) is None
    assert keys.all()[0].revoked is not None


def test_the_secret_is_nowhere_on_the_disk(quick):
    _, text = KeyStore(Database(quick / "jobs.sqlite")).add("ann")
    written = b"".join(path.read_bytes() for path in quick.iterdir())
    id, _, secret = text.partition(":")
    assert id.encode() in written and secret.encode() not in written
    assert len(secret) == 43  # 256 bits


@pytest.mark.parametrize(("name", "scopes"), [("", ["generate"]), ("x" * 81, ["generate"]), ("a\nb", []), ("ann", ["root"])])
def test_odd_names_and_scopes_are_refused(tmp_path, name, scopes):
    with pytest.raises(UserError):
        KeyStore(Database(tmp_path / "jobs.sqlite")).add(name, scopes)


def test_all_gateways_share_one_secret_of_a_name(place):
    secrets = {shared_secret(Database(place), "webhooks") for _ in range(3)}
    assert len(secrets) == 1 and len(secrets.pop()) == 32
    assert shared_secret(Database(place), "cookies") != shared_secret(Database(place), "webhooks")


def sote(*arguments, **environment):
    command = [sys.executable, "-m", "sotediffusion.cli.main", "serve", "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_keys_are_made_listed_and_revoked_from_the_command_line(tmp_path):
    here = ("--data", str(tmp_path / "data"))
    added = sote("add", "ann", "--scope", "generate", "--scope", "admin", *here)
    text = added.stdout.strip()
    assert added.returncode == 0 and "only time" in added.stderr and text not in added.stderr
    keys = KeyStore(Database(tmp_path / "data" / "jobs.sqlite"))
    assert keys.check(text).name == "ann"
    id, _, secret = text.partition(":")
    listed = sote("list", *here).stdout
    assert f"{id}  ann  generate,admin" in listed and "valid" in listed and secret not in listed
    assert sote("revoke", id, *here).returncode == 0
    assert keys.check(text) is None and "revoked" in sote("list", *here).stdout
    again = sote("revoke", id, *here)
    assert again.returncode == 2 and "is no valid key" in again.stderr and again.stderr.count("\n") == 1


def test_keys_lie_where_the_environment_says(tmp_path):
    elsewhere = str(tmp_path / "other.sqlite")
    text = sote("add", "ann", SOTE_JOBS=elsewhere).stdout.strip()
    assert KeyStore(Database(elsewhere)).check(text) is not None
    assert sote("list", XDG_DATA_HOME=str(tmp_path)).stdout == ""
    assert (tmp_path / "sotediffusion" / "serve" / "jobs.sqlite").exists()


def test_keys_go_into_the_database_of_a_server_with_the_same_settings(tmp_path):
    settings, elsewhere = tmp_path / "serve.toml", tmp_path / "other.sqlite"
    for line, where in ((f'jobs = "{elsewhere}"', elsewhere), (f'data = "{tmp_path}/data"', tmp_path / "data" / "jobs.sqlite")):
        settings.write_text(line)
        text = sote("add", "ann", "--config", str(settings)).stdout.strip()
        assert KeyStore(Database(where)).check(text) is not None
    assert "ann" in sote("list", "--config", str(settings)).stdout


def test_an_unknown_scope_lists_the_known_ones(tmp_path):
    refused = sote("add", "ann", "--scope", "admn", "--data", str(tmp_path))
    assert refused.returncode == 2 and "admin" in refused.stderr and "Traceback" not in refused.stderr


def test_bounds_of_a_key_are_given_listed_and_changed_from_the_command_line(tmp_path):
    here = ("--data", str(tmp_path))
    bounded = sote("add", "ann", "--waiting", "3", "--bytes", "1.5G", "--keep-days", "0.5", *here).stdout
    id = bounded.partition(":")[0]
    keys = KeyStore(Database(tmp_path / "jobs.sqlite"))
    assert keys.all()[0].allowance == Allowance(3, 3 * 2**29, 43200.0)
    assert "valid  waiting 3  bytes 1610612736  days 0.5\n" in sote("list", *here).stdout
    assert sote("limit", id, "--bytes", "100", *here).returncode == 0
    assert keys.all()[0].allowance == Allowance(bytes=100)
    assert "valid  bytes 100\n" in sote("list", *here).stdout
    for arguments, word in ((("nobody",), "is no valid key"), ((id, "--bytes", "much"), "'much' is no size"),
                            ((id, "--bytes", "0"), "bytes: 0 is no bound"), ((id, "--waiting", "0"), "0")):  # fmt: skip
        refused = sote("limit", *arguments, *here)
        assert refused.returncode == 2 and word in refused.stderr and "Traceback" not in refused.stderr
    assert keys.all()[0].allowance == Allowance(bytes=100)
