"""Tunes written as ABC in one plain form: eighths as unit, repeats and endings as they are."""

from __future__ import annotations

from fractions import Fraction

from intaglio.media._abc import LETTERS, SECTION_ENDS, Measure, Sign, Tune

UNIT = Fraction(1, 2)  # what is written here counts in eighths


def body(tune: Tune, *, bars_a_line: int = 4, spaced: bool = False) -> str:
    """The notes in one plain form: eighths as unit, ``>`` where it fits, a new line every few bars and after a section.

    spaced: a space between beats, as people write it. Read again, it gives the same bars.
    """
    lines, line, count = [], "", 0
    measures = tune.measures
    for number, measure in enumerate(measures):
        after = measures[number + 1] if number + 1 < len(measures) else None
        if number == 0 and (measure.left or measure.ending):
            line += "|:" if measure.left else "|" + measure.ending
        line += _bar_text(measure, beat_of(tune) if spaced else Fraction(0))
        right = measure.right
        if after is not None and after.left:
            right = {"|": "|:", ":|": ":||:"}.get(right, right + "|:")
        if after is not None:
            right += after.ending + (f"[K:{after.key}]" if after.key else "")
        line += right + (" " if spaced else "")
        count += measure.beats >= tune.full / 2
        over = measure.right in SECTION_ENDS or (after is not None and after.left) or count >= bars_a_line
        if over and not (after is not None and after.ending):
            lines.append(line.rstrip())
            line, count = "", 0
    return "\n".join([*lines, line.rstrip()] if line else lines) + "\n"


def dump(tune: Tune) -> str:
    """A whole tune as ABC."""
    meter = f"{tune.meter[0]}/{tune.meter[1]}" if tune.meter else "none"
    head = [f"X:{tune.number}", f"T:{tune.title}", *([f"R:{tune.rhythm}"] if tune.rhythm else []), f"M:{meter}"]
    tempo = [f"Q:1/4={tune.beats_per_minute:g}"] if tune.beats_per_minute else []
    return "\n".join([*head, "L:1/8", *tempo, f"K:{tune.key}", body(tune, spaced=True)])


def beat_of(tune: Tune) -> Fraction:
    """What notes are beamed by, in beats: three eighths in 6/8 and its like, half a bar in 2/2, else a quarter."""
    if tune.meter is None:
        return Fraction(1)
    above, below = tune.meter
    return Fraction(3, 2) if below == 8 and above % 3 == 0 else Fraction(2) if (above, below) == (2, 2) else Fraction(1)


def _bar_text(measure: Measure, beat: Fraction) -> str:
    text, at, signs, back = "", Fraction(0), measure.signs, Fraction(0)
    for number, sign in enumerate(signs):
        if beat and number and at % beat == 0 and not back:
            text += " "
        after = signs[number + 1] if number + 1 < len(signs) else None
        written, sign_after = sign.written, ""
        if back:  # the second of a broken pair is written as if there were no pair
            written, back = written * back, Fraction(0)
        elif after is not None and not sign.tie and sign.tuplet == after.tuplet == 0:
            if sign.written == 3 * after.written and _short(after.written * 2):
                written, sign_after, back = after.written * 2, ">", Fraction(2)
            elif after.written == 3 * sign.written and _short(sign.written * 2):
                written, sign_after, back = sign.written * 2, "<", Fraction(2, 3)
        text += f"({sign.tuplet}" if sign.tuplet > 0 else ""
        text += sign_text(sign, written) + ("-" if sign.tie else "") + sign_after
        at += sign.beats
    return text


def _short(written: Fraction) -> bool:
    return written in (UNIT, UNIT * 2, UNIT / 2)


def sign_text(sign: Sign, written: Fraction) -> str:
    """A note, chord or rest with its length in units."""
    length = written / UNIT
    if length == 1:
        number = ""
    elif length == Fraction(1, 2):
        number = "/"
    else:
        number = str(length) if length.numerator > 1 else f"/{length.denominator}"
    names = [_note_name(step, own) for step, own in sign.steps]
    return ("z" if not names else names[0] if len(names) == 1 else f"[{''.join(names)}]") + number


def _note_name(step: int, own: int | None) -> str:
    octave, letter = step // 7, LETTERS[step % 7]
    name = letter.lower() + "'" * (octave - 5) if octave >= 5 else letter + "," * (4 - octave)
    return {None: "", 2: "^^", 1: "^", 0: "=", -1: "_", -2: "__"}[own] + name
