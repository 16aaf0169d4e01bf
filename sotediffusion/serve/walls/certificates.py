"""A certificate of one's own for TLS on a home network: made once, kept, made anew before it expires or for other names."""

import datetime
import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sotediffusion.pictures.files import write_whole

_LIFE = datetime.timedelta(days=397)
_RENEW = datetime.timedelta(days=30)  # before its end
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def self_signed(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """The certificate and key files in a folder, for these names and addresses and this machine's own.

    Clients trust it by its file: `SSL_CERT_FILE=folder/cert.pem`. Nobody but the user can read the key.
    """
    certificate, key = folder / "cert.pem", folder / "key.pem"
    wanted = [*LOCAL_NAMES, *(name for name in names if name not in LOCAL_NAMES)]
    if not _holds(certificate, key, wanted):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = ec.generate_private_key(ec.SECP256R1())
        text = secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        os.close(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600))
        write_whole(key, text, "tls")
        os.chmod(key, 0o600)
        write_whole(certificate, _signed(secret, wanted).public_bytes(serialization.Encoding.PEM), "tls")
    return certificate, key


def _signed(secret: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SoteDiffusion")])
    builder = x509.CertificateBuilder(subject, subject, secret.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(now + _LIFE)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(secret, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _holds(file: Path, key: Path, names: Sequence[str]) -> bool:
    """Whether there is a certificate of this key for all these names that is good for a while yet."""
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
        secret = serialization.load_pem_private_key(key.read_bytes(), None)
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):  # TypeError: the key wants a password
        return False
    if secret.public_key() != found.public_key():  # two first starts at once, each of which wrote one of the files last
        return False
    late = found.not_valid_after_utc - _RENEW < datetime.datetime.now(datetime.UTC)
    return not late and set(alternatives) >= {_general(name) for name in names}
