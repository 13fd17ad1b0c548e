"""English by spelling: syllables counted and rhyme sounds guessed by rules, without a pronouncing dictionary.

Where a word is stressed on its last syllable (one syllable, a known prefix before it, or a long vowel in it) its sound
is that of this syllable; else the rhyme reaches back one syllable further and is compared as it is spelled ("feather",
"weather").
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

_VOWELS = re.compile(r"[aeiouy]+")
_SILENT = re.compile(r"(?<=[aeiouy][^aeiouy])e(?=(?:ly|less|ness|ful|ment|some|fore|hood)s?$)")
_ALIKE = {  # sound -> words whose spelling misleads
    "uv": "love above dove glove of shove",
    "um": "come some become from thumb dumb",
    "un": "one done none son won anyone everyone someone undone begun",
    "ed": "said dead head bread instead dread spread thread tread ahead stead",
    "en": "again then when men",
    "est": "breast west guest",
    "I": "eye aye buy guy high nigh thigh sigh die lie tie pie dye",
    "U": "to do who two you through shoe into too unto undo adieu",
    "O": "though dough although know low slow snow blow flow show grow throw row glow crow below bestow owe sew "
    "tow ago foe toe woe",
    "On": "known grown blown flown thrown shown own sown",
    "W": "bow brow plough bough",
    "er": "were fur her stir sir",
    "av": "have",
    "iv": "give live forgive outlive",
    "Ar": "there where their bear wear tear swear forswear pear heir prayer",
    "art": "heart art apart part depart",
    "ar": "are far star",
    "erd": "word bird heard third",
    "erld": "world hurled curled",
    "erth": "earth birth worth mirth",
    "At": "great straight eight weight freight",
    "eth": "death breath",
    "ud": "blood flood mud",
    "ood": "good wood stood hood could would should understood",
    "Ud": "food mood brood rude",
    "A": "they obey prey grey weigh neigh sleigh survey convey",
    "orm": "warm storm form",
    "or": "war door floor four pour your more oar roar soar court",
    "Wer": "our hour flour sour flower power tower shower devour",
    "Um": "tomb womb whom",
    "Im": "climb",
    "Ol": "soul bowl",
    "Uv": "move prove approve remove improve",
    "ot": "what not yacht",
    "et": "debt",
    "end": "friend end",
    "ung": "tongue young among hung",
    "Up": "group soup",
    "E": "sea tea plea key he she me we be thee the",
    "ut": "but cut shut",
    "oot": "put foot",
    "in": "been",
    "on": "gone on upon john",
    "ez": "says",
    "Iz": "eyes wise",
    "uz": "does was",
    "oz": "cause because",
}
_IRREGULAR = {word: sound for sound, words in _ALIKE.items() for word in words.split()}
_PREFIXES = """
    a be de re con com ex in un im en em dis mis for fore pre pro per sub sur suc sup al ap as at ad ac ob op
    out over under with up to
""".split()
_SOUNDS: Sequence[
    tuple[str, str]
] = (  # spelling of a word's last syllable from its vowel on -> its sound, first match wins
    (r"ough(t?)$", r"aw\1"),
    (r"augh(t?)$", r"aw\1"),
    (r"(?:eigh|aigh)(t?)$", r"A\1"),
    (r"igh(t?)$", r"I\1"),
    (r"ie(d|s)$", r"I\1"),
    (r"orce$", "ors"),
    (r"ign$", "In"),
    (r"i(nd|ld)$", r"I\1"),
    (r"o(ld|lt|ll|st)$", r"O\1"),
    (r"al(l|d|t)?$", r"awl\1"),
    (r"alk$", "awk"),
    (r"al(m|f|ve)$", r"a\1"),
    (r"a(?:sk|st|ss|th)(e?)$", r"\g<0>"),
    (r"(?:air|are|aire)$", "Ar"),
    (r"(?:eer|ear|ere|ier)$", "Er"),
    (r"(?:ire|yre|iar)$", "Ir"),
    (r"(?:oor|our|oar|or)e?(.*?)e?$", r"or\1"),
    (r"ure$", "Ur"),
    (r"(?:er|ir|ur|yr|ear)([^e]*)e?$", r"er\1"),
    (r"(?:ease|eeze|eese)$", "Ez"),
    (r"(?:ai|ay|ei|ey)(.*)$", r"A\1"),
    (r"(?:ee|ea|ie)(.+)$", r"E\1"),
    (r"(?:ee|ea)$", "E"),
    (r"(?:ie|ye|uy)$", "I"),
    (r"(?:oa|oe)(.*)$", r"O\1"),
    (r"ook$", "ook"),
    (r"(?:oo|ew|ue|ui|eu)(.*)$", r"U\1"),
    (r"u$", "U"),
    (r"(?:oi|oy)(.*)$", r"Y\1"),
    (r"(?:au|aw)(.*)$", r"aw\1"),
    (r"(?:ou|ow)se$", "Ws"),
    (r"(?:ou|ow)(.*)$", r"W\1"),
    (r"ase$", "As"),
    (r"a([^aeiouy]{1,2}|st|ng)e$", r"A\1e"),
    (r"e([^aeiouy])e$", r"E\1e"),
    (r"[iy]([^aeiouy]|th|gn)e$", r"I\1e"),
    (r"o([^aeiouy]|th)e$", r"O\1e"),
    (r"u([^aeiouy]|th)e$", r"U\1e"),
)
_ENDS: Sequence[tuple[str, str]] = (
    (r"dge$", "j"),
    (r"ge$", "j"),
    (r"tch$", "C"),
    (r"ch$", "C"),
    (r"ce$", "s"),
    (r"the$", "dh"),
    (r"ck$", "k"),
    (r"que$", "k"),
    (r"ph$", "f"),
    (r"mb$", "m"),
    (r"mn$", "m"),
    (r"x$", "ks"),
    (r"c$", "k"),
    (r"(?<=[AEIOUWY])se$", "z"),
    (r"(?<=.)e$", ""),
    (r"gh", ""),
    (r"([bcdfgklmnprstz])\1", r"\1"),
)


def _bare(word: str) -> str:
    return re.sub(r"[^a-z]", "", re.split("['’]", word.lower())[0])


def syllables(word: str) -> int:
    """Estimated syllables of an English word: vowel groups, less the usual silent endings; 0 only without a letter."""
    word = _SILENT.sub("", re.sub(r"[^a-z]", "", word.lower()))
    if not word:
        return 0
    count = len(_VOWELS.findall(word))
    if re.search(r"[^aeiouy]e$", word) and not re.search(r"[^aeiouyl]le$", word):
        count -= 1  # silent e, but not "-ble"
    elif re.search(r"[^aeiouytd]ed$", word) or re.search(r"[^aeiouylscxzgh]es$", word):
        count -= 1  # "walked", "times", but not "wanted", "wishes"
    split = re.sub(r"[ct]i(?:o|a)|sio|gio", "", word)  # one sound there
    count += len(re.findall(r"i(?:a|o(?!u)|um|us)|[^q]ua|eo(?!u)|[aeou]ing|yi|[^q]uo|ier$|iet", split))
    count += bool(re.search(r"(?:sm|thm)$", word))
    return max(count, 1)


@functools.lru_cache(maxsize=65536)
def rhyme_sound(word: str) -> str:
    """The sound of an English word from its last stressed vowel on, guessed from spelling; empty where it has no
    vowel."""
    word = _bare(word)
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    return _inflected(word) or _stem_sound(word)


def _inflected(word: str) -> str:
    """The sound of a plural or past tense, from that of its stem."""
    plural = re.fullmatch(r"(.*[aeiouy].*[^su])s|(.*[aeiouy]e)s", word)
    if plural and len(word) > 3 and not word.endswith("is"):
        stem = word[:-1]
        if re.search(r"(?:x|sh|ch|ss)e$", stem):
            return ""  # a syllable of its own
        if re.fullmatch(r"[^aeiouy]*ie", stem):
            return "Iz"
        return _with_end(rhyme_sound(stem), "s", "z")
    past = re.fullmatch(r"(.*[aeiouy].*[^aeiouytd])ed", word)
    if past:
        stem = past[1]
        if re.search(r"(?:^|[^aeiou])[aiou][^aeiouwxy]$|[vcsz]$|ng$", stem) and stem[-1] != stem[-2:-1]:
            stem += "e"
        return _with_end(rhyme_sound(stem), "t", "d")
    return ""


def _with_end(sound: str, hard: str, soft: str) -> str:
    return sound + (hard if sound.endswith(("p", "t", "k", "f", "th", "s", "C")) else soft)


def _stem_sound(word: str) -> str:
    trimmed = _SILENT.sub("", word)
    trimmed = re.sub(r"(?<=[^aeiouy])e$", "", trimmed) if not re.search(r"[^aeiouyl]le$", trimmed) else trimmed
    trimmed = re.sub(r"(?<=[gq])u(?=[aeiouy])", "w", trimmed)
    groups = list(_VOWELS.finditer(trimmed))
    if not groups:
        return ""
    count = len(groups)
    tail = word[_place(word, trimmed, groups[-1].start()) :]
    if tail.startswith("ei") and word.endswith("c" + tail):
        tail = "ee" + tail[2:]  # "receive"
    sound = _tail_sound(word, tail, count)
    if count == 1 or _stressed_last(word, sound, count):
        return sound
    return "~" + re.sub(r"([^aeiouy])\1", r"\1", trimmed[groups[-2].start() :])


def _place(word: str, trimmed: str, start: int) -> int:
    """Where place ``start`` of ``trimmed`` lies in ``word``: they differ by silent letters before it."""
    return start if word[: start + 1][-1:] == trimmed[start] else start + 1


def _stressed_last(word: str, sound: str, count: int) -> bool:
    if word.endswith("y"):
        return count >= 3 or word.endswith(("ay", "oy", "ply", "fy", "ny")) and sound[:1].isupper()
    rest = next((word[len(p) :] for p in sorted(_PREFIXES, key=len, reverse=True) if word.startswith(p)), "")
    prefixed = count == 2 and bool(re.match(r"[^aeiouy]", rest))
    weak = re.search(
        r"(?:er|or|en|el|le|ow|ing|ish|est|ness|less|ful|ent|ant|ence|ance|age|ous|al|ic|et|on|om|an|in|is|us|it|ure|ey|ile|ive)$",
        word,
    )
    if count == 2:
        return (
            prefixed
            and not re.search(r"(?:er|en|le|ow|ing|ish|ness|less|ful|age|ous|ic)$", word)
            or (sound[:1].isupper() and not weak)
        )
    return sound[:1].isupper() and not weak


def _tail_sound(word: str, tail: str, count: int) -> str:
    if word.endswith("y") and not word.endswith(("ay", "ey", "oy", "uy")):
        return "I" if count == 1 or word.endswith(("fy", "eny", "ply", "efy")) else "E"
    if count == 1 and re.fullmatch(r"[^aeiouy]*e", word):
        return "E"
    if word.endswith("o") and not word.endswith("oo"):
        return "O"
    for spelling, sound in _SOUNDS:
        if re.match(spelling, tail):
            tail = re.sub(spelling, sound, tail, count=1)
            break
    for spelling, sound in _ENDS:
        tail = re.sub(spelling, sound, tail)
    return tail
