"""Characters, bytes or byte-level BPE as tokens, in the ``tokenizer.json`` that ``transformers`` and llama.cpp read.

All are lossless. A character that the character tokenizer does not know becomes its UTF-8 bytes: nothing is unknown.
Token 0 ends a text and stands before every one. ``KINDS`` names the kinds; ``TextTokenizer`` is what they share.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END = "<|end|>"
KINDS = ("char", "byte", "bpe")
MAX_CHARACTERS = 12_000
_SPLIT = (  # words with their space, single digits, runs of marks, line ends: the pattern of Qwen, digits apart
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TextTokenizer:
    """Text to token ids and back, with the bytes of every token at hand."""

    end = 0

    def __init__(self, tokenizer: Tokenizer, kind: str) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # an end token written out in a text is text
        self.kind = kind
        vocab = tokenizer.get_vocab()
        self.size = len(vocab)
        names = [name for name, _ in sorted(vocab.items(), key=lambda pair: pair[1])]
        self.bytes = [_token_bytes(name, kind) for name in names]
        self.strings = [data.decode("utf-8", "replace") for data in self.bytes]
        self._table = _character_table(names) if kind == "char" else None
        self._bytes = _byte_table(self.bytes) if kind == "byte" else None

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, without the end token; what looks like the end token in a text is text."""
        return self.encode_all([text])[0].tolist()

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int64) of each text, without end tokens."""
        texts = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates cannot be written down
        if self._bytes is not None:
            return [self._bytes[np.frombuffer(text.encode(), dtype=np.uint8)] for text in texts]
        if self._table is None:
            return [
                np.array(found.ids, dtype=np.int64)
                for found in self.tokenizer.encode_batch(texts, add_special_tokens=False)
            ]
        return [self._encode_characters(text) for text in texts]

    def _encode_characters(self, text: str) -> np.ndarray:
        assert self._table is not None
        codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = self._table[codes]
        unknown = np.flatnonzero(ids < 0)
        if not len(unknown):
            return ids
        parts, start = [], 0
        for place in unknown.tolist():
            data = np.frombuffer(text[place].encode(), dtype=np.uint8)
            parts += [ids[start:place], data.astype(np.int64) + 1]  # byte tokens come right after the end token
            start = place + 1
        return np.concatenate([*parts, ids[start:]])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD, end tokens nothing."""
        return b"".join(self.bytes[index] for index in ids).decode("utf-8", "replace")

    def save(self, folder: Path, *, context: int) -> list[Path]:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``; returns both."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "pad_token": END,
            "clean_up_tokenization_spaces": False,
            "model_max_length": context,
        }
        files = [folder / "tokenizer.json", folder / "tokenizer_config.json"]
        files[0].write_text(self.tokenizer.to_str(pretty=False) + "\n", "utf-8")
        files[1].write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        return files

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """What ``save`` wrote. Errors: ValueError where the file is damaged or of another kind."""
        path = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:  # the Rust side raises bare Exception
            raise ValueError(f"{path.name} is no readable tokenizer: {error}") from error
        model = json.loads(tokenizer.to_str())["model"]
        if model.get("byte_fallback", False):
            return cls(tokenizer, "notes" if model.get("ignore_merges", False) else "char")
        return cls(tokenizer, "byte" if not model["merges"] and len(model["vocab"]) == 257 else "bpe")


def _token_bytes(name: str, kind: str) -> bytes:
    if name == END:
        return b""
    if kind in ("bpe", "byte"):
        return bytes(_BYTE_OF[character] for character in name)
    if len(name) == 6 and name.startswith("<0x"):
        return bytes([int(name[3:5], 16)])
    return name.encode()


def _byte_names() -> dict[str, int]:
    """GPT-2's printable stand-ins of the 256 bytes, as the ByteLevel pre-tokenizer writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}


_BYTE_OF = _byte_names()


def _character_table(names: Sequence[str]) -> np.ndarray:
    table = np.full(0x110000, -1, dtype=np.int64)
    for index, name in enumerate(names):
        if len(name) == 1:
            table[ord(name)] = index
    return table


def _byte_table(tokens: Sequence[bytes]) -> np.ndarray:
    table = np.zeros(256, dtype=np.int64)
    for index, data in enumerate(tokens):
        if data:
            table[data[0]] = index
    return table


def count_characters(texts: Iterable[str]) -> Counter[str]:
    """How often each character occurs; lone surrogates count as ``?``."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.encode("utf-8", "replace").decode())
    return counts


def character_tokenizer(counts: Counter[str]) -> TextTokenizer:
    """A token a character, the most frequent first, and 256 bytes; in a large archive only characters seen twice."""
    least = 2 if sum(counts.values()) > 100_000 else 1
    known = sorted((c for c, n in counts.items() if n >= least), key=lambda c: (-counts[c], c))[:MAX_CHARACTERS]
    names = [END, *(f"<0x{byte:02X}>" for byte in range(256)), *known]
    model = models.BPE(
        vocab={name: index for index, name in enumerate(names)}, merges=[], byte_fallback=True, fuse_unk=False
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return TextTokenizer(_with_end(tokenizer), "char")


def byte_tokenizer() -> TextTokenizer:
    """A token a byte of UTF-8, in the order of their values, and the end: 257 in all, whatever the language."""
    stand_in = {byte: name for name, byte in _BYTE_OF.items()}
    names = [END, *(stand_in[byte] for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TextTokenizer(_with_end(tokenizer), "byte")


def bpe_tokenizer(texts: Iterator[str], *, size: int) -> TextTokenizer:
    """Byte-level BPE of at most ``size`` tokens learned from ``texts``; the same texts give the same tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return TextTokenizer(_with_end(tokenizer), "bpe")


def _with_end(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return tokenizer


def choose_kind(counts: Counter[str]) -> str:
    """``char`` for archives below two million characters or mostly of Han, kana or Hangul, else ``bpe``."""
    total = sum(counts.values())
    syllabic = sum(
        n for c, n in counts.items() if 0x2E80 <= ord(c) <= 0x9FFF or 0xAC00 <= ord(c) <= 0xD7AF or ord(c) > 0x1FFFF
    )
    return "char" if total < 2_000_000 or syllabic > 0.3 * total else "bpe"
