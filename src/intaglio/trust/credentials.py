"""Content Credentials (C2PA): sign a file so that any changed byte shows, and read such a signature without a network.

Spec: C2PA 2.x through c2pa-python. Embedded where the format has a place for it, else a detached manifest of about
4 kB that binds any bytes. Thumbnails are off (they would double a small picture), and so is every fetch: a reader that
followed an address named by the file it checks would be a hole.
"""

from __future__ import annotations

import datetime
import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import c2pa

from intaglio.core.contracts import Rights
from intaglio.core.i18n import t
from intaglio.trust.authority import Authority

PIECE = "org.intaglio.piece"  # our own assertion: produce_id, ai, the AIGC label, the license, details
ANY_BYTES = "application/octet-stream"
SIDECAR = ".c2pa"
DIGITAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = DIGITAL_SOURCE + "trainedAlgorithmicMedia"
NOT_GENERATED = DIGITAL_SOURCE + "dataDrivenMedia"  # a page or a style sheet written by plain program code

EMBEDS = frozenset(  # where both c2pa-rs and an independent reader agree on the embedded form
    {
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/gif",
        "image/tiff",
        "image/svg+xml",
        "image/avif",
        "audio/wav",
        "audio/mpeg",
        "audio/flac",
        "audio/mp4",
        "video/mp4",
        "video/quicktime",
        "application/pdf",
    }
)

State = Literal["trusted", "valid", "invalid", "missing", "unreadable"]
# Sub-formats a signing certificate may be for: e-mail protection, document signing, time stamping, OCSP, C2PA.
_TRUST_CONFIG = "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.5.5.7.3.8\n1.3.6.1.5.5.7.3.9\n1.3.6.1.4.1.62558.2.1\n"


@dataclass(frozen=True)
class Reading:
    """What the signature of a file says. manifest: the active manifest as plain data, None where there is none.

    state: ``trusted`` (whole, by a signer under the anchors), ``valid`` (whole, signer unknown), ``invalid``
    (changed or broken), ``missing`` (no manifest), ``unreadable`` (a manifest nobody can read).
    """

    state: State
    manifest: dict[str, Any] | None = None
    reasons: tuple[str, ...] = ()
    piece: Mapping[str, Any] = field(default_factory=dict)
    generated: bool = False


def sign_embedded(data: bytes, mime: str, rights: Rights, *, piece: Mapping[str, Any], signer: Authority) -> bytes:
    """A file's bytes with its credentials inside; ``mime`` is one of EMBEDS."""
    out = io.BytesIO()
    _sign(io.BytesIO(data), mime, out, manifest=_manifest(mime, rights, piece), signer=signer, embed=True)
    return out.getvalue()


def sign_detached(data: bytes, mime: str, rights: Rights, *, piece: Mapping[str, Any], signer: Authority) -> bytes:
    """A manifest for the sidecar ``<file>.c2pa``; it binds every byte of the file, whatever those are."""
    manifest = _manifest(mime, rights, piece)
    return _sign(io.BytesIO(data), ANY_BYTES, io.BytesIO(), manifest=manifest, signer=signer, embed=False)


def _sign(
    file: BinaryIO, mime: str, out: BinaryIO, *, manifest: dict[str, Any], signer: Authority, embed: bool
) -> bytes:
    info = c2pa.C2paSignerInfo(b"es256", signer.chain_pem.encode(), signer.key_pem.encode(), None)
    with (
        _context("") as context,
        c2pa.Signer.from_info(info) as key,
        c2pa.Builder(manifest, context) as builder,
    ):
        if not embed:
            builder.set_no_embed()
        return bytes(builder.sign(key, mime, file, out))


def _manifest(mime: str, rights: Rights, piece: Mapping[str, Any]) -> dict[str, Any]:
    name, _, version = rights.software.partition(" ")
    action = {
        "action": "c2pa.created",
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),  # the only time in a file
        "digitalSourceType": GENERATED if piece["ai"] else NOT_GENERATED,
        "softwareAgent": {"name": name or "Intaglio", **({"version": version} if version else {})},
    }
    return {
        "claim_generator_info": [{"name": name or "Intaglio", "version": version or "0"}],
        "title": rights.title or rights.produce_id,
        "format": mime,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
            {"label": PIECE, "data": dict(piece)},
        ],
    }


def _context(anchors_pem: str) -> c2pa.Context:
    settings: dict[str, Any] = {
        "verify": {
            "verify_after_sign": False,
            "verify_trust": bool(anchors_pem),
            "remote_manifest_fetch": False,
            "ocsp_fetch": False,
        },
        "builder": {"thumbnail": {"enabled": False}},
    }
    if anchors_pem:
        settings["trust"] = {"user_anchors": anchors_pem, "trust_config": _TRUST_CONFIG}
    return c2pa.Context(c2pa.Settings.from_dict(settings))


@functools.cache
def readable() -> frozenset[str]:
    """Media types the installed library can look into for an embedded manifest."""
    return frozenset(c2pa.Reader.get_supported_mime_types())


def read_embedded(path: Path, mime: str, *, anchors_pem: str) -> Reading:
    """Check the manifest inside a file; ``missing`` where the format has no place for one or there is none."""
    if mime not in readable():
        return Reading("missing")
    with path.open("rb") as file:
        return _read(mime, file, None, anchors_pem)


def read_detached(path: Path, store: bytes, *, anchors_pem: str) -> Reading:
    """Check a sidecar's manifest against the bytes of ``path``."""
    with path.open("rb") as file:
        return _read(ANY_BYTES, file, store, anchors_pem)


def _read(mime: str, file: BinaryIO, store: bytes | None, anchors_pem: str) -> Reading:
    try:
        with _context(anchors_pem) as context:
            reader = c2pa.Reader(mime, file, store, context)
            with reader:
                text = reader.json()
    except c2pa.C2paError.ManifestNotFound:
        return Reading("missing")
    except c2pa.C2paError as error:
        if "must fetch remote manifests" in str(error):  # it names an address; that is never followed
            return Reading("missing", reasons=(t("the credentials lie at an address outside; nothing was fetched"),))
        return Reading("unreadable", reasons=(f"{type(error).__name__.lstrip('_')}: {error}"[:300],))
    return _judge(json.loads(text))


def _judge(report: dict[str, Any]) -> Reading:
    manifest = (report.get("manifests") or {}).get(report.get("active_manifest"))
    if not isinstance(manifest, dict):
        return Reading("unreadable", reasons=("no active manifest",))
    codes = _failures(report)
    states: dict[str, State] = {"Trusted": "trusted", "Valid": "valid"}
    state = states.get(str(report.get("validation_state")), "invalid")
    assertions = [a for a in manifest.get("assertions") or () if isinstance(a, dict)]
    piece = next((a.get("data") for a in assertions if a.get("label") == PIECE), None)
    return Reading(
        state,
        manifest,
        tuple(codes),
        piece if isinstance(piece, dict) else {},
        _says_generated(assertions),
    )


def _failures(report: dict[str, Any]) -> list[str]:
    active = (report.get("validation_results") or {}).get("activeManifest") or {}
    found = [str(each.get("code")) for each in active.get("failure") or () if isinstance(each, dict)]
    return list(dict.fromkeys(found))


def _says_generated(assertions: list[dict[str, Any]]) -> bool:
    for assertion in assertions:
        data = assertion.get("data")
        if str(assertion.get("label", "")).startswith("c2pa.actions") and isinstance(data, dict):
            for action in data.get("actions") or ():
                kind = str(action.get("digitalSourceType", "")) if isinstance(action, dict) else ""
                if kind.lower().endswith(("trainedalgorithmicmedia", "compositewithtrainedalgorithmicmedia")):
                    return True
    return False
