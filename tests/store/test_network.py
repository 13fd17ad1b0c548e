"""SQLite is refused on network file systems, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from intaglio.core.errors import UserError
from intaglio.store import Store, _network

MOUNTINFO = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /home rw,relatime shared:5 - btrfs /dev/vdb rw
31 30 0:50 / /home/anna/NAS\040share rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
32 30 0:51 / /home/anna/win rw shared:9 - cifs //server/share rw
33 30 0:52 / /home/anna/ssh rw - fuse.sshfs me@server: rw
34 30 0:53 / /home/anna/disk rw - fuse.ntfs-3g /dev/sdb1 rw
35 31 0:54 / /home/anna/NAS\040share/local rw - ext4 /dev/sdc rw
36 22 0:55 / /over rw - ext4 /dev/sdd rw
37 22 0:56 / /over rw - nfs server:/over rw
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTINFO + b"broken line\n\n")
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    {
        "/home/anna/NAS share/project": "nfs4",
        "/home/anna/NAS share": "nfs4",
        "/home/anna/NAS shared": "btrfs",
        "/home/anna/NAS share/local/project": "ext4",
        "/home/anna/win/a/b": "cifs",
        "/home/anna/ssh": "fuse.sshfs",
        "/home/anna/disk/x": "fuse.ntfs-3g",
        "/srv": "ext4",
        "/over/x": "nfs",
    }.items(),
)
def test_the_innermost_mount_counts(mounts: Path, path: str, kind: str) -> None:
    assert _network.file_system(Path(path), mounts) == kind
    if kind in ("nfs", "nfs4", "cifs", "fuse.sshfs"):
        with pytest.raises(UserError, match=rf"network file system \({kind}\)[\s\S]*postgresql://"):
            _network.refuse_network(Path(path), mounts)
    else:
        _network.refuse_network(Path(path), mounts)


def test_a_store_there_is_refused_but_not_with_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    kinds: list[Path] = []

    def nfs(path: Path, mounts: Path = _network.MOUNTS) -> str:
        kinds.append(path)
        return "nfs4"

    monkeypatch.setattr(_network, "file_system", nfs)
    with pytest.raises(UserError, match="network file system"):
        Store.open(tmp_path / ".intaglio")
    assert not (tmp_path / ".intaglio").exists() and kinds == [tmp_path / ".intaglio"]
    Store.open(tmp_path / ".intaglio", url=postgres_url).close()


def test_this_machine_is_told_without_an_error(tmp_path: Path) -> None:
    assert isinstance(_network.file_system(tmp_path), str)
    assert _network.file_system(tmp_path, tmp_path / "no such file") == ""
