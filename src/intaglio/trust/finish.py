"""The last hand on a file before it leaves: labels first, then the signature over everything; never touched after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import c2pa

from intaglio.core.contracts import Rights
from intaglio.core.errors import IntaglioError, UserError
from intaglio.core.hashing import sha256_bytes
from intaglio.core.i18n import t
from intaglio.trust import credentials
from intaglio.trust.authority import Authority
from intaglio.trust.carriers import BINARY, carrier, kind_of, plain
from intaglio.trust.labels import Label, LabelError, NoPlace, label_for
from intaglio.trust.labels_texts import link_manifest


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished file. unsigned_sha256: with labels, before the signature (the same in every run); sha256: as it lies
    there now. sidecar: the detached manifest beside it, None where the credentials are inside."""

    unsigned_sha256: str
    sha256: str
    sidecar: Path | None


class FinishError(IntaglioError):
    """A file could not be labelled or signed: the exporter that made it has a bug, or the signing library refused."""


def finish(path: Path, mime: str, rights: Rights, *, ai: bool, signer: Authority) -> Finished:
    """Label and sign a staged file in place; a format without room for credentials gets ``<file>.c2pa`` beside it.

    Args:
        path: a file that nobody else writes or reads yet. mime: what it is; checked against its content.
        ai:   True writes the labels of generated content; False writes none and signs that none is needed.
    Returns:
        Finished. Everything before the signature is a pure function of the bytes, ``mime``, ``rights`` and ``ai``.
    Errors:
        FinishError: not a whole file of this kind, or refused by the signing library. UserError: it cannot be read or
        written.
    """
    kind = plain(mime)
    embedded = kind in credentials.EMBEDS
    sidecar = None if embedded else path.with_name(path.name + credentials.SIDECAR)
    try:
        data = path.read_bytes()
        if kind in BINARY and kind_of(data[:4096]) != kind:
            raise FinishError(t("{name} is not a whole {kind} file", name=path.name, kind=kind))
        label = label_for(rights) if ai else None
        data, place = _labelled(data, kind, label, sidecar)
        piece = _piece(rights, kind, label, place)
        unsigned = sha256_bytes(data)
        if sidecar is None:
            data = credentials.sign_embedded(data, kind, rights, piece=piece, signer=signer)
        else:
            store = credentials.sign_detached(data, kind, rights, piece=piece, signer=signer)
            _replace(sidecar, store)
        _replace(path, data)
    except (LabelError, c2pa.C2paError) as error:
        raise FinishError(f"{path.name}: {error}") from error
    except OSError as error:
        raise UserError(t("cannot be finished: {error}", error=error.strerror or error), where=path.name) from error
    return Finished(unsigned, sha256_bytes(data), sidecar)


def _labelled(data: bytes, kind: str, label: Label | None, sidecar: Path | None) -> tuple[bytes, str]:
    """The bytes with the label, and where it lies: ``file``, ``manifest`` or ``none``."""
    place = "none"
    if label is not None:
        carried = carrier(kind)
        place = "manifest"
        if carried is not None:
            try:
                data, place = carried.write(data, label), "file"
            except NoPlace:
                place = "manifest"
    if kind == "text/html" and sidecar is not None:
        data = link_manifest(data, sidecar.name)
    return data, place


def _piece(rights: Rights, kind: str, label: Label | None, place: str) -> dict[str, Any]:
    """Our assertion in the signed manifest; ``inspect`` holds the file against it."""
    return {
        "produce_id": rights.produce_id,
        "mime": kind,
        "ai": label is not None,
        "label_in": place,
        **({"aigc": dict(label.aigc)} if label is not None else {}),
        "license": rights.license,
        "creator": rights.creator,
        "details": dict(rights.details),
    }


def _replace(path: Path, data: bytes) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
