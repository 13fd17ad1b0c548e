"""What is shipped: pins that fit together, data files in the wheel, no big or private files in the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAX_FILE_BYTES = 500_000
MAX_LINES = 500


def tracked() -> list[Path]:
    """Files of the repository: committed or not, but not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [
            path
            for folder in ("src", "tests", "docs", "tools")
            for path in (ROOT / folder).rglob("*")
            if path.is_file()
        ]
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {canonical(name): Version(version) for name, version in (line.split("==") for line in lines if "==" in line)}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_has_a_pin_that_fits() -> None:
    known = pins()
    for text in [
        *PROJECT["dependencies"],
        *(each for group in PROJECT["optional-dependencies"].values() for each in group),
    ]:
        wanted = Requirement(text)
        if wanted.name == "intaglio":
            continue
        assert canonical(wanted.name) in known, f"constraints.txt has no {wanted.name}"
        assert known[canonical(wanted.name)] in wanted.specifier, (
            f"{wanted} does not allow the version in constraints.txt"
        )


def test_every_range_has_a_reason() -> None:
    """A comment stands above (or above the group of) every dependency."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    for block in re.findall(r"^(?!classifiers)\w+ = \[\n(.*?)^\]", text.split("[tool.")[0], re.MULTILINE | re.DOTALL):
        for before, line in zip(["", *block.splitlines()], block.splitlines(), strict=False):
            if re.match(r'\s+"[A-Za-z]', line) and "intaglio" not in line and not before.strip().startswith(("#", '"')):
                raise AssertionError(f"why this range: {line.strip()}")


def test_torch_is_pinned_without_its_build() -> None:
    assert pins()["torch"].local is None


def test_the_wheel_holds_the_data_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
    source = ROOT / "src"
    expected = {str(path.relative_to(source)) for path in tracked() if path.is_relative_to(source)}
    assert expected <= held
    assert "intaglio/locale/zh/cli.json" in held and "intaglio/py.typed" in held
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_no_big_files() -> None:
    assert not [path for path in tracked() if path.stat().st_size > MAX_FILE_BYTES]


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "docs", "bench", "examples", ".ci"])
def test_no_paths_of_a_machine(folder: str) -> None:
    private = re.compile(r"(?:^|[\s\"'`(=:])/(?:work|root|tmp)/[a-z]\w", re.MULTILINE)
    for path in tracked():
        if path.is_relative_to(ROOT / folder) and path.suffix in (
            ".py",
            ".md",
            ".toml",
            ".json",
            ".txt",
            ".css",
            ".js",
            "",
        ):
            found = private.search(path.read_text("utf-8", errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)}: {found[0] if found else ''}"


def test_file_sizes_a_reader_can_hold() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "src").rglob("*.py")
        if path.read_text("utf-8").count("\n") > MAX_LINES
    }
    assert not long, "split these where it is natural"
