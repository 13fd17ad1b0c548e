"""Words and sentences of Chinese and English."""

from __future__ import annotations

from intaglio.media.words import content_words, sentences, words


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def test_sentences() -> None:
    assert cut("他说：“好。”然后走了。还有") == ["他说：“好。”", "然后走了。", "还有"]
    assert cut("It cost 3.50 today. Then he left!\n\nA new line") == [
        "It cost 3.50 today.",
        "Then he left!",
        "A new line",
    ]
    assert cut("白日依山尽，黄河入海流。\n欲穷千里目") == ["白日依山尽，黄河入海流。", "欲穷千里目"]
    assert cut("") == cut(" \n\n ") == []
    assert "".join(cut("a.b.c...d")) == "a.b.c...d"


def test_sentences_of_a_long_line_are_linear() -> None:
    assert len(cut("x" * 300_000)) == 1
    assert len(cut("." * 100_000)) == 1


def test_words() -> None:
    assert words("The quick Brown-fox isn't 42.") == ["the", "quick", "brown-fox", "isn't", "42"]
    assert "".join(words("黄河入海流")) == "黄河入海流"
    assert words("") == words("，。!?") == []


def test_content_words() -> None:
    assert content_words("the river of no return 1999") == ["river", "return"]
    assert "的" not in content_words("春天的河流") and content_words("春天的河流")


def test_jieba_reads_no_file_from_a_shared_folder(tmp_path, monkeypatch) -> None:
    """jieba's own cache is a marshal file of fixed name in the temporary folder: anyone could put one there."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words("黄河入海流")
    assert list(tmp_path.iterdir()) == []
