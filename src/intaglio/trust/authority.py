"""The certificate authority of one person or press: root, issuing authority and signing certificate, made on first use.

It lies outside every project, below ``INTAGLIO_HOME`` or the user's data folder, so that a project can be given away
without its key. P-256 throughout; the signing certificate carries what C2PA asks of one (digitalSignature, an
organization, e-mail protection and C2PA key usage). Readers that do not know our root say "valid, signer unknown":
that is the truth about a self-made authority.
"""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import platformdirs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from intaglio.core.errors import UserError
from intaglio.core.i18n import t

FOLDER = "authority"
C2PA_CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
# No time-stamping service stands behind these signatures, so readers judge them at the day they read: the signing
# certificate must outlive the publications, not only the signing.
ROOT_DAYS, ISSUER_DAYS, LEAF_DAYS = 40 * 365, 35 * 365, 30 * 365
CLOCK_SLACK = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Authority:
    """Who signs. chain_pem: signing certificate, then issuing authority (PEM). key_pem: the signing key, secret.

    root_pem is what a reader needs to trust us, and is public. folder: where it lies.
    """

    folder: Path
    root_pem: str
    chain_pem: str
    key_pem: str = ""

    def __repr__(self) -> str:  # the key must not reach a log
        return f"Authority({self.organization!r}, {self.fingerprint[:16]})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the root certificate, 64 hex digits."""
        return x509.load_pem_x509_certificate(self.root_pem.encode()).fingerprint(hashes.SHA256()).hex()

    @cached_property
    def organization(self) -> str:
        """The name in the signing certificate."""
        leaf = x509.load_pem_x509_certificate(self.chain_pem.encode())
        return str(leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value)


def home_folder(home: Path | None = None) -> Path:
    """Where a person's own things lie: ``home``, else ``INTAGLIO_HOME``, else the user data folder of the system."""
    if home is not None:
        return home
    given = os.environ.get("INTAGLIO_HOME", "")
    return Path(given) if given else Path(platformdirs.user_data_dir("intaglio"))


def authority(home: Path | None = None, *, organization: str = "") -> Authority:
    """The authority of this person, made on first use; several processes at once end with the same one.

    Args:
        home:         folder that holds it; see ``home_folder``.
        organization: name for the certificates when they are made; an invented neutral one where empty.
    Errors:
        UserError: the folder cannot be written, is damaged, or others may read the key.
    """
    folder = home_folder(home) / FOLDER
    if not folder.is_dir():
        _make(folder, organization)
    return _read(folder)


def existing(home: Path | None = None) -> Authority | None:
    """The authority if there is one; makes nothing (for readers such as ``verify``). The key is not read."""
    folder = home_folder(home) / FOLDER
    if not folder.is_dir():
        return None
    return Authority(folder, _text(folder / "root.pem"), _text(folder / "chain.pem"))


def _read(folder: Path) -> Authority:
    for name in ("leaf.key", "issuer.key", "root.key"):
        _refuse_readable(folder / name)
    made = Authority(folder, _text(folder / "root.pem"), _text(folder / "chain.pem"), _text(folder / "leaf.key"))
    try:
        key = serialization.load_pem_private_key(made.key_pem.encode(), password=None)
        leaf = x509.load_pem_x509_certificate(made.chain_pem.encode())
        if not made.fingerprint or key.public_key() != leaf.public_key():
            raise ValueError("key and certificate do not belong together")
    except (ValueError, TypeError) as error:
        raise UserError(
            t("the signing key or its certificates are damaged: {error}", error=error),
            where=str(folder),
            fix=t("restore that folder from a backup; or move it away, and a new authority is made"),
        ) from error
    return made


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            t("the signing authority cannot be read: {error}", error=getattr(error, "strerror", None) or "not PEM"),
            where=str(path),
            fix=t("restore that folder from a backup; or move it away, and a new authority is made"),
        ) from error


def _refuse_readable(path: Path) -> None:
    """Like ssh: a key that others may read is not used."""
    if os.name != "posix" or not path.exists():
        return
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(t("others may read this signing key"), where=str(path), fix=f"chmod 600 {path}")


def _make(folder: Path, organization: str) -> None:
    """Build beside, then rename: whoever renames first wins, and nobody ever sees half an authority."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".authority-", dir=folder.parent))  # mode 0700
    except OSError as error:
        raise UserError(
            t("the signing authority cannot be made here: {error}", error=error.strerror),
            where=str(folder.parent),
            fix=t("set INTAGLIO_HOME to a folder you may write"),
        ) from error
    try:
        for name, data in _chain(organization or f"Self-made Intaglio authority {secrets.token_hex(4)}").items():
            _write(scratch / name, data)
        try:
            os.rename(scratch, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # gone already when the rename was ours
    if os.name == "posix":
        handle = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if path.suffix == ".key" else 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _chain(organization: str) -> dict[str, bytes]:
    """File name to PEM for root, issuing authority and signing certificate, with their keys."""
    root_key, issuer_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root_name = _name(organization, "root")
    issuer_name = _name(organization, "issuing authority")
    root = _certificate(root_name, root_key, root_name, root_key, days=ROOT_DAYS, path_length=1)
    issuer = _certificate(issuer_name, issuer_key, root_name, root_key, days=ISSUER_DAYS, path_length=0)
    leaf = _certificate(_name(organization, "content credentials"), leaf_key, issuer_name, issuer_key, days=LEAF_DAYS)
    return {
        "root.pem": _pem(root),
        "chain.pem": _pem(leaf) + _pem(issuer),
        "root.key": _key(root_key),
        "issuer.key": _key(issuer_key),
        "leaf.key": _key(leaf_key),
    }


def _name(organization: str, role: str) -> x509.Name:
    organization = organization[:64]  # X.520 upper bound
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{organization[: 63 - len(role)]} {role}"),
        ]
    )


def _certificate(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    days: int,
    path_length: int | None = None,
) -> x509.Certificate:
    """A certificate; ``path_length`` None means one that signs content, a number one that signs certificates."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    is_ca = path_length is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(_key_usage(is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not is_ca:
        usages = [ExtendedKeyUsageOID.EMAIL_PROTECTION, C2PA_CLAIM_SIGNING]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    flags: dict[str, Any] = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **flags)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
