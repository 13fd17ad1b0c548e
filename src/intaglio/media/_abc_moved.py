"""Tunes in another key: higher or lower by semitones, spelled as the new key is."""

from __future__ import annotations

import dataclasses
import re

from intaglio.media._abc import LETTER_FIFTHS, Sign, Tune, fifths, signature


def transposed(tune: Tune, semitones: int) -> Tune | None:
    """The tune so many semitones higher, spelled in the new key: every note keeps its step of the scale, and an
    accidental raises or lowers it by as much as before; modes stay. None where no key signature or sign can say it.

    Of two spellings (F# and Gb) the one with fewer sharps or flats is taken, then the one nearer by letters.
    """
    old = fifths(tune.key)
    letters = _letters_up(tune.key, old, semitones)
    if letters is None:
        return None
    steps_up, turn = letters
    measures, key, new_key = [], tune.key, _turned(tune.key, turn)
    first = new_key
    for measure in tune.measures:
        if measure.key:
            key, new_key = measure.key, _turned(measure.key, turn)
        if not new_key:
            return None
        signs = [_sign_up(sign, steps_up, signature(key), signature(new_key)) for sign in measure.signs]
        if any(sign is None for sign in signs):
            return None
        moved = [sign for sign in signs if sign is not None]
        measures.append(dataclasses.replace(measure, signs=moved, key=new_key if measure.key else ""))
    return dataclasses.replace(tune, key=first, measures=measures) if first else None


def _letters_up(key: str, old: int, semitones: int) -> tuple[int, int] | None:
    """How many steps of the staff, and how many fifths, a key goes by; None where no signature says it."""
    turn = (7 * semitones + 5) % 12 - 5  # -5 to 6
    options = []
    for fifths_up in (turn, turn - 12, turn + 12):
        if -7 <= old + fifths_up <= 7 and _turned(key, fifths_up):
            steps, rest = divmod(semitones - 7 * fifths_up, 12)  # a fifth is 4 letters and 7 semitones, an octave 7
            assert rest == 0
            options.append((abs(old + fifths_up), abs(4 * fifths_up + 7 * steps), 4 * fifths_up + 7 * steps, fifths_up))
    return min(options)[2:] if options else None


def _turned(key: str, fifths_up: int) -> str:
    """The key so many fifths further with the same mode, "" where its name needs a double sharp or flat."""
    found = re.match(r"([A-G])([#b]?)(.*)", key)
    if not found or not -7 <= fifths(key) + fifths_up <= 7:
        return ""
    letter_fifths = LETTER_FIFTHS[found[1]] + {"": 0, "#": 7, "b": -7}[found[2]] + fifths_up
    sharps, place = divmod(letter_fifths + 1, 7)
    return "FCGDAEB"[place] + {0: "", 1: "#", -1: "b"}[sharps] + found[3] if -1 <= sharps <= 1 else ""


def _sign_up(sign: Sign, steps_up: int, old: dict[int, int], new: dict[int, int]) -> Sign | None:
    steps = []
    for step, own in sign.steps:
        there = step + steps_up
        alter = None if own is None else own - old.get(step % 7, 0) + new.get(there % 7, 0)
        if not 0 <= there < 70 or (alter is not None and abs(alter) > 2):
            return None
        steps.append((there, alter))
    return dataclasses.replace(sign, steps=tuple(steps))
