"""The authority: made once, whoever asks first; its key readable by nobody else."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from intaglio.core.errors import UserError
from intaglio.trust.authority import authority, existing


def test_made_on_first_use_and_kept(tmp_path: Path) -> None:
    assert existing(tmp_path) is None
    first = authority(tmp_path)
    again = authority(tmp_path)
    assert again.key_pem == first.key_pem and len(first.fingerprint) == 64
    assert existing(tmp_path).root_pem == first.root_pem and existing(tmp_path).key_pem == ""
    assert "PRIVATE" not in repr(first)


def test_chain_holds(tmp_path: Path) -> None:
    made = authority(tmp_path, organization="小印社 press")
    leaf, issuer = x509.load_pem_x509_certificates(made.chain_pem.encode())
    root = x509.load_pem_x509_certificate(made.root_pem.encode())
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    assert made.organization == "小印社 press"
    assert leaf.not_valid_after_utc < issuer.not_valid_after_utc < root.not_valid_after_utc


def test_home_from_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path / "mine"))
    assert authority().folder == tmp_path / "mine" / "authority"


@pytest.mark.skipif(os.name != "posix", reason="file modes are a matter of POSIX")
def test_key_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = authority(tmp_path).folder
    keys = sorted(folder.glob("*.key"))
    assert len(keys) == 3 and all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    keys[0].chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        authority(tmp_path)


@pytest.mark.parametrize("name", ["leaf.key", "chain.pem", "root.pem"])
def test_damage_is_said(tmp_path: Path, name: str) -> None:
    folder = authority(tmp_path).folder
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match="backup"):
        authority(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UserError, match="backup"):
        authority(tmp_path)


def test_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(UserError, match="INTAGLIO_HOME"):
        authority(tmp_path / "home")


def test_many_processes_make_one(tmp_path: Path) -> None:
    code = "from intaglio.trust.authority import authority; print(authority().fingerprint)"
    environment = {**os.environ, "INTAGLIO_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    answers = {process.communicate()[0].strip() for process in started}
    assert all(process.returncode == 0 for process in started) and len(answers) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["authority"]
