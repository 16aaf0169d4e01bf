"""The certificate of one's own belongs to the key beside it, whatever happened when they were written."""

import ssl
from pathlib import Path

import pytest

from sotediffusion.serve.walls.certificates import self_signed


def serves(certificate: Path, key: Path) -> None:
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="none")


@pytest.mark.parametrize("damage", ["another's", "cut", "gone"])
def test_a_pair_that_does_not_fit_is_made_anew(tmp_path: Path, damage: str) -> None:
    certificate, key = self_signed(tmp_path / "tls", ["draw.example"])
    if damage == "gone":
        key.unlink()
    else:
        other = self_signed(tmp_path / "other", ["draw.example"])[1].read_bytes()
        key.write_bytes(other if damage == "another's" else other[:40])
    with pytest.raises(OSError):
        serves(certificate, key)
    serves(*self_signed(tmp_path / "tls", ["draw.example"]))
    kept = key.read_bytes()
    assert self_signed(tmp_path / "tls", ["draw.example"]) == (certificate, key) and key.read_bytes() == kept
    assert key.stat().st_mode & 0o77 == 0
