"""The code hash: a changed statement counts, a changed comment, docstring or neutral part does not."""

from __future__ import annotations

from pathlib import Path

from intaglio.project import code


def test_comments_and_docstrings_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "part.py"
    hashes = {}
    for name, text in {
        "first": '"""Doc."""\nx = 1\n',
        "comment": '"""Other doc."""\n# why\nx = 1\n',
        "changed": '"""Doc."""\nx = 2\n',
    }.items():
        path.write_text(text, "utf-8")
        hashes[name] = code.CodeHashes(tmp_path / "cache.json")._file(path)[0]
    assert hashes["first"] == hashes["comment"] != hashes["changed"]


def test_a_component_counts_what_it_imports_but_not_core(tmp_path: Path) -> None:
    hashes = code.CodeHashes(tmp_path / "cache.json")
    hashes.component("models", "gpt")
    read = {Path(name).parts[-2:] for name in hashes._files}
    assert ("models", "gpt.py") in read
    assert any(folder == "nn" for folder, _ in read)
    assert not any(folder in ("core", "store", "project", "cli") for folder, _ in read)


def test_the_cache_gives_the_same_answer(tmp_path: Path) -> None:
    first = code.CodeHashes(tmp_path / "cache.json")
    one = first.component("data", "folder")
    first.save()
    second = code.CodeHashes(tmp_path / "cache.json")
    assert second.component("data", "folder") == one
    assert not second._changed
    (tmp_path / "cache.json").write_text("{broken", "utf-8")
    assert code.CodeHashes(tmp_path / "cache.json").component("data", "folder") == one
