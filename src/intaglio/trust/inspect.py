"""Is this file as it was published? Checks credentials and labels of any file, offline, whatever its bytes.

Nothing is fetched, nothing in the file is obeyed, and no input raises: what cannot be read is said in ``reasons``.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from intaglio.core.i18n import t
from intaglio.trust import credentials
from intaglio.trust.carriers import UNKNOWN, carrier, kind_of
from intaglio.trust.credentials import Reading
from intaglio.trust.labels import LabelError, check
from intaglio.trust.seal import loose_parts

Finding = Literal["valid", "missing", "invalid", "unknown"]
MAX_STORE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file says of itself. ``unknown``: whole, but by a signer we do not know; or not to be judged.

    manifest: the active C2PA manifest as plain data. produce_id: the signed number of the file, ``""`` without one.
    """

    credentials: Finding
    labels: Finding
    reasons: list[str] = field(default_factory=list)
    manifest: dict[str, Any] | None = None
    produce_id: str = ""


def inspect(path: Path, *, anchors_pem: str) -> Inspection:
    """Check a file, or the file beside a ``.c2pa`` sidecar, against the roots we trust.

    Args:
        anchors_pem: root certificates, PEM; with an empty string every signer is unknown.
    """
    target = path.with_suffix("") if path.suffix == credentials.SIDECAR else path
    try:
        if not target.is_file():
            return Inspection("invalid", "unknown", [t("there is no file {name}", name=target.name)])
        with target.open("rb") as file:
            head = file.read(4096)
        reading = _credentials(target, head, anchors_pem)
        found, reasons = _labels(target, head, reading)
    except Exception as error:  # hostile bytes find the odd corner of every parser; the answer is still an answer
        return Inspection(
            "invalid", "unknown", [t("cannot be checked: {error}", error=f"{type(error).__name__}: {error}")]
        )
    named = str(reading.piece.get("produce_id", "")) if reading.state in ("trusted", "valid") else ""
    verdict: dict[str, Finding] = {"trusted": "valid", "valid": "unknown", "missing": "missing"}
    return Inspection(
        verdict.get(reading.state, "invalid"), found, [*_explained(reading), *reasons], reading.manifest, named
    )


def _credentials(path: Path, head: bytes, anchors_pem: str) -> Reading:
    kind = kind_of(head, path.name)
    reading = credentials.read_embedded(path, kind, anchors_pem=anchors_pem)
    sidecar = path.with_name(path.name + credentials.SIDECAR)
    if reading.state != "missing":
        return _sealed(reading, path, kind)
    if sidecar.is_file() and sidecar.stat().st_size <= MAX_STORE_BYTES:
        store = sidecar.read_bytes()
        return _sealed(credentials.read_detached(path, store, anchors_pem=anchors_pem), sidecar, "application/c2pa")
    return reading


def _sealed(reading: Reading, holder: Path, kind: str) -> Reading:
    """For what we signed ourselves, the wrapping counts too (see ``seal``)."""
    if reading.state not in ("trusted", "valid") or not reading.piece:
        return reading
    loose = loose_parts(holder.read_bytes(), kind)
    if not loose:
        return reading
    return Reading("invalid", reading.manifest, (*reading.reasons, *loose), reading.piece, reading.generated)


def _explained(reading: Reading) -> list[str]:
    said = {
        "trusted": [],
        "valid": [t("whole, but signed by somebody we do not know: {name}", name=_signer(reading))],
        "missing": [t("no content credentials")],
        "invalid": [t("changed after it was signed, or the signature is broken")],
        "unreadable": [t("the content credentials cannot be read")],
    }[reading.state]
    details = reading.reasons if reading.state != "valid" else ()
    return [*said, *details]


def _signer(reading: Reading) -> str:
    info = (reading.manifest or {}).get("signature_info")
    return str(info.get("issuer", "?"))[:100] if isinstance(info, dict) else "?"


def _labels(path: Path, head: bytes, reading: Reading) -> tuple[Finding, list[str]]:
    whole = reading.state in ("trusted", "valid")
    signed = reading.piece if whole else {}
    found = _found(path, str(signed.get("mime") or kind_of(head, path.name)))
    if signed.get("label_in") == "manifest":
        found.append(signed.get("aigc"))
    if len(found) > 1:
        return "invalid", [t("{count} AIGC labels where there must be one", count=len(found))]
    try:
        label = check(found[0]) if found else None
    except LabelError as error:
        return "invalid", [str(error)]
    if label is None:
        return _none_found(reading, whole=whole)
    if signed and not signed.get("ai"):
        return "invalid", [t("labelled as generated, but signed as not generated")]
    if signed and (label != signed.get("aigc") or label["ProduceID"] != signed.get("produce_id")):
        return "invalid", [t("the label is not the one that was signed")]
    if not whole:
        return "unknown", [t("there is a label, and no whole signature to hold it against")]
    return "valid", []


def _none_found(reading: Reading, *, whole: bool) -> tuple[Finding, list[str]]:
    if not whole:
        return "missing", [t("no label in the file")]
    if reading.piece.get("ai") is False or (not reading.piece and not reading.generated):
        return "valid", []
    return "missing", [t("signed as generated, and no label in the file")]


def _found(path: Path, kind: str) -> list[Any]:
    carried = carrier(kind)
    if carried is None or kind == UNKNOWN or path.stat().st_size == 0:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return carried.read(data)
        except (ValueError, IndexError):  # cut short or not of this kind: then it holds no label
            return []
