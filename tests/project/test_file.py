"""The project file: every mistake is named with its place and its cure, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from intaglio.core.errors import UserError
from intaglio.project.file import read_project, secrets_missing, with_secrets
from intaglio.project.resolve import Resolver


def write(folder: Path, text: str) -> Path:
    (folder / "archive").mkdir(exist_ok=True)
    (folder / "archive" / "a.txt").write_text("one line of text\n", "utf-8")
    (folder / "intaglio.toml").write_text(text, "utf-8")
    return folder


def resolve(folder: Path) -> object:
    return Resolver(folder / ".intaglio" / "cache").project(read_project(folder))


DATA = '[data.texts]\nuse = "folder"\npath = "archive"\nlicense = "CC0-1.0"\n'


@pytest.mark.parametrize(
    ("text", "where", "says", "fix"),
    [
        ("[project]\nnmae = 'x'\n", "[project]", "unknown key 'nmae'", "did you mean 'name'?"),
        ("[project]\nseed = 'x'\n", "[project]", "seed", ""),
        ("[model.x]\nuse = 'gpt'\n", "intaglio.toml", "unknown section [model]", "did you mean 'models'?"),
        ("[data.x]\npath = 'archive'\n", "[data.x]", "'use' is missing", "use ="),
        ("[data.x]\nuse = 'fodler'\n", "[data.x]", "no component 'fodler'", "did you mean 'folder'?"),
        (
            "[data.x]\nuse = 'folder'\npth = 'archive'\nlicense='CC0-1.0'\n",
            "[data.x]",
            "unknown key 'pth'",
            "did you mean 'path'?",
        ),
        (
            "[data.x]\nuse = 'folder'\npath = 'nowhere'\nlicense='CC0-1.0'\n",
            "[data.x]",
            "nowhere does not exist",
            "make it",
        ),
        ("[data.x]\nuse = 'folder'\npath = 'archive'\n", "[data.x]", "license", ""),
        ("[data.x]\nuse = 'folder'\npath = 'archive'\nlicense='CC-BY-NC-9'\n", "[data.x]", "CC-BY-NC-9", ""),
        ("[data.'a b']\nuse = 'folder'\n", "[data.a b]", "letters, digits", ""),
        ("not toml at all", "intaglio.toml", "not valid TOML", ""),
        (
            DATA + '[data.Texts]\nuse="folder"\npath="archive"\nlicense="CC0-1.0"\n',
            "[data.Texts]",
            "already used",
            "own name",
        ),
        ('[models.m]\nuse="gpt"\ndata="texts"\n' + DATA, "[models.m]", "not above", "texts@last"),
        (DATA + '[models.m]\nuse="gpt"\ndata="textz"\n', "[models.m]", "no step 'textz'", "did you mean 'texts'?"),
        (DATA + '[generate.g]\nuse="verse"\nmodel="texts"\n', "[generate.g]", "takes models", ""),
        (DATA + '[models.m]\nuse="gpt"\ndata="texts"\nsize="huge"\n', "[models.m]", "key 'size'", ""),
    ],
)
def test_mistakes_name_place_and_cure(tmp_path: Path, text: str, where: str, says: str, fix: str) -> None:
    write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        resolve(tmp_path)
    assert where in caught.value.where
    assert says in caught.value.what
    assert fix in caught.value.fix
    assert not (tmp_path / ".intaglio" / "ledger.db").exists()


def test_no_project_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no project here"):
        read_project(tmp_path)


def test_order_is_that_of_the_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        DATA
        + '[knowledge.k]\nuse="keywords"\nitems="texts"\n[data.more]\nuse="folder"\npath="archive"\nlicense="MIT"\n',
    )
    assert [step.name for step in read_project(tmp_path).steps] == ["texts", "k", "more"]


def test_secrets_are_replaced_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"api_key": "${env.INTAGLIO_TEST_KEY}", "deep": ["x${env.INTAGLIO_TEST_KEY}y"]}
    monkeypatch.delenv("INTAGLIO_TEST_KEY", raising=False)
    assert secrets_missing(values) == ["INTAGLIO_TEST_KEY"] * 2
    monkeypatch.setenv("INTAGLIO_TEST_KEY", "s3")
    assert with_secrets(values) == {"api_key": "s3", "deep": ["xs3y"]}


@pytest.mark.parametrize(
    ("above", "use", "role", "says"),
    [
        ("gan", "models/flow", "codes", 'has use = "gan"; this role takes use = "vae"'),
        ("vae", "models/video", "codes", ""),
        ("vae", "models/codes", "model", 'this role takes use = "vq"'),
        ("music", "models/gpt", "start", 'this role takes use = "gpt"'),
        ("gpt", "generate/picture", "model", "'m' makes text; this role takes image"),
        ("vae", "generate/verse", "model", "'m' makes image; this role takes text"),
    ],
)
def test_a_step_of_the_wrong_kind_is_refused_before_it_is_trained(
    tmp_path: Path, above: str, use: str, role: str, says: str
) -> None:
    pytest.importorskip("torch")
    stage, name = use.split("/")
    data = "data = 'texts'\n" if stage == "models" else ""
    models = f"[models.m]\nuse = '{above}'\ndata = 'texts'\n"
    folder = write(tmp_path, f"{DATA}{models}[{stage}.x]\nuse = '{name}'\n{data}{role} = 'm'\n")
    if not says:
        resolve(folder)
        return
    for _ in range(2):  # the second time from the cache
        with pytest.raises(UserError) as caught:
            resolve(folder)
        assert says in caught.value.what and caught.value.fix
