"""Refuses SQLite on network file systems, where its locks and its shared memory do not hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

from intaglio.core.errors import UserError
from intaglio.core.i18n import t

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    "9p afs beegfs ceph cifs coda davfs glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs smb2 smb3 smbfs sshfs "
    "gcsfuse goofys rclone s3fs davfs2 curlftpfs".split()
)


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """The kind of file system ``path`` (or its nearest existing parent) lies on; empty where Linux does not tell."""
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = -1, ""
    for line in lines:
        left, _, right = line.partition(b" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        point = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m.group(1), 8)]), fields[4]))
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # the last mount on a point is the one that is seen
            best, kind = len(point), right.split()[0].decode("ascii", "replace")
    return kind


def refuse_network(path: Path, mounts: Path = MOUNTS) -> None:
    """UserError if ``path`` lies on a network file system; it names PostgreSQL as the way to share a ledger."""
    kind = file_system(path, mounts)
    if kind.removeprefix("fuse.") in NETWORK:
        raise UserError(
            t(
                "this folder is on a network file system ({kind}), where SQLite can lose or mix up what it wrote",
                kind=kind,
            ),
            where=str(path),
            fix=t(
                "keep the project on a local disk, or name a PostgreSQL ledger: postgresql://user:password@host/database"
            ),
        )
