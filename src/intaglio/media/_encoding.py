"""Which encoding a text that is not UTF-8 was written in: every candidate is decoded and its characters are scored.

charset-normalizer alone takes short Chinese for Korean or Japanese ("春眠不觉晓..." in Big5 for Shift-JIS, 50 bytes of
GB18030 for EUC-KR), so the encodings people here have are told apart by their most frequent characters, and
charset-normalizer is asked where none of them fits.
"""

from __future__ import annotations

from intaglio.core.registry import import_or_explain

SAMPLE_BYTES = 1 << 16
_FREQUENT_HAN = frozenset(
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多"
    "日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从山水风月花春秋云夜何处知江南东西北君白长相思故明高红青雨声落归客"
    "這為來個們說國時於後對裡裏過發無麼經與學進種將還見沒從風雲處東長聲歸門開間話問電書車馬會點動現實體頭樣當兩關給讓吃世界文字成功很想"
    "，。、！？；：“”‘’（）《》「」『』…—　"
)
_FREQUENT_HANGUL = frozenset(
    "이다는을가에의고로하지사도기리를어나한시인은자서그아대있것들수해과일정부만라면보게전여주스상원동제공국생장구습니까요으며안녕세봄꽃새책날말"
)
_FREQUENT_LATIN = frozenset("àâäáãåæçéèêëíîïìñóòôöõøœúùûüýßÉÀÄÖÜÇÑÁÓ")
_QUOTES = frozenset("“”‘’–—…€©«»°•„§½¡¿·")
_CANDIDATES = ("gb18030", "big5", "cp1252", "cp932", "euc_jp", "cp949", "cp1251")
_GOOD_ENOUGH = 0.6


def guess(sample: bytes) -> str:
    """The most likely encoding of ``sample`` (bytes that are not UTF-8); ``""`` where nothing fits.

    The sample may be cut inside a character: its last bytes are not held against a candidate.
    """
    sample = sample[:SAMPLE_BYTES]
    best, best_score = "", _GOOD_ENOUGH
    for encoding in _CANDIDATES:
        text = _try(sample, encoding)
        if text is not None and (found := _score(text)) > best_score:
            best, best_score = encoding, found
    if best:
        return best
    match = import_or_explain("charset_normalizer", "telling the encoding of texts").from_bytes(sample).best()
    return match.encoding if match is not None and _plausible(str(match)) else ""


def _try(sample: bytes, encoding: str) -> str | None:
    for cut in range(4):
        try:
            return sample[: len(sample) - cut].decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(sample) - 4 or len(sample) < SAMPLE_BYTES:
                return None
    return None


def _score(text: str) -> float:
    """Mean over the characters beyond ASCII: 2 for a frequent one, less for a rare, negative for an impossible one."""
    total, count = 0.0, 0
    previous = " "
    for char in text:
        code = ord(char)
        if code >= 0x80:
            count += 1
            total += _worth(char, code, previous)
        elif not (char.isprintable() or char.isspace()):
            total -= 1
        previous = char
    return total / count if count else 0.0


def _worth(char: str, code: int, previous: str) -> float:
    if char in _FREQUENT_HAN or char in _FREQUENT_HANGUL or 0x3040 <= code <= 0x30FF:
        return 2.0
    if 0x4E00 <= code <= 0x9FFF:
        return 0.6
    if 0xAC00 <= code <= 0xD7A3:
        return 0.4
    if char in _FREQUENT_LATIN:
        return 1.6 if previous.isalpha() and previous.isascii() else 0.7
    if char in _QUOTES:
        return 1.2
    if 0x0430 <= code <= 0x045F:  # lower-case Cyrillic, after a Cyrillic letter or at a word's start
        return -1.5 if previous.isascii() and previous.isalpha() else 1.8
    if 0x0400 <= code <= 0x042F:
        return 1.0 if not previous.isalpha() else -1.0
    if code < 0xA0 or 0xE000 <= code <= 0xF8FF or not char.isprintable():
        return -3.0
    return 0.0


def _plausible(text: str) -> bool:
    odd = sum(1 for char in text if not (char.isprintable() or char.isspace()))
    return odd * 50 <= len(text)
