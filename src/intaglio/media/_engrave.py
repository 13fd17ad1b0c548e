"""A tune as a picture of a score: staff, clef, key, meter, notes with stems and beams, rests, bars and repeats.

Drawn with Pillow at three times the size and brought down; every shape is our own (lines, ellipses, curves).
Units: one space is the distance of two staff lines; y is counted in half spaces down from the top line.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from PIL import Image, ImageDraw, ImageFont

from intaglio.media._abc import SECTION_ENDS, Measure, Sign, Tune, signature
from intaglio.media._abc_out import beat_of

FINE = 3  # drawn larger by this
SPACE = 9 * FINE
WIDTH = 1_000 * FINE
MARGIN = 28 * FINE
TOP_LINE = 38  # the staff's top line is F5 as a step
INK, PAPER = (20, 20, 24), (255, 253, 248)
MAX_LINES = 24
_SHARPS, _FLATS = (38, 35, 39, 36, 33, 37, 34), (34, 37, 33, 36, 32, 35, 31)  # of a treble clef
_CLEF = (  # a curve of x, y in half spaces; the line it curls around is y = 6
    (1.3, 7.6), (0.3, 6.9), (0.2, 5.5), (1.3, 4.6), (2.7, 5.2), (2.9, 6.8), (1.6, 8.0), (-0.4, 7.6),
    (-1.2, 5.8), (-0.4, 3.6), (1.2, 1.6), (2.2, -0.6), (1.7, -2.6), (0.8, -2.0), (0.5, 0.0), (1.0, 3.5),
    (1.5, 7.0), (1.9, 10.0), (1.3, 11.6), (0.1, 11.5), (-0.2, 10.6),
)  # fmt: skip


@dataclass
class _Placed:
    """A sign and where its head stands."""

    sign: Sign
    x: float
    onset: Fraction


def png(tune: Tune, *, title: str = "") -> bytes:
    """The score as PNG bytes, 1,000 pixels wide; a very long tune is cut after ``MAX_LINES`` lines."""
    lines = _lines(tune)[:MAX_LINES]
    title = title or tune.title
    head = (44 if title else 16) * FINE
    height = head + len(lines) * 13 * SPACE + 6 * FINE
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    page = _Page(ImageDraw.Draw(picture), tune)
    if title:
        font = ImageFont.load_default(20 * FINE)
        page.draw.text((WIDTH / 2, 26 * FINE), title, fill=INK, font=font, anchor="mm")
    for number, line in enumerate(lines):
        page.staff(line, head + 4.5 * SPACE + number * 13 * SPACE, first=number == 0)
    out = io.BytesIO()
    small = picture.resize((WIDTH // FINE, height // FINE), Image.Resampling.LANCZOS)
    small.quantize(24).save(out, "PNG", optimize=True)
    return out.getvalue()


def _lines(tune: Tune) -> list[list[Measure]]:
    """Bars by line: about as many signs on each, a new line where a section ends."""
    lines: list[list[Measure]] = [[]]
    width = 0
    for measure in tune.measures:
        needed = 2 + len(measure.signs)
        last = lines[-1][-1] if lines[-1] else None
        new_section = last is not None and last.right in SECTION_ENDS and not measure.ending and width > 20
        if lines[-1] and (width + needed > 40 or new_section):
            lines.append([])
            width = 0
        lines[-1].append(measure)
        width += needed
    return [line for line in lines if line]


class _Page:
    """Draws one tune; ``top`` is the y of the top line of the staff at work."""

    def __init__(self, draw: ImageDraw.ImageDraw, tune: Tune) -> None:
        self.draw, self.tune = draw, tune
        self.key, self.beat = signature(tune.key), beat_of(tune)
        self.top = 0.0

    def y(self, step: float) -> float:
        """Height of a step (7 * octave + letter) on the page."""
        return self.top + (TOP_LINE - step) * SPACE / 2

    def line(self, points: Sequence[tuple[float, float]], width: float) -> None:
        self.draw.line(list(points), fill=INK, width=max(1, round(width * FINE)), joint="curve")

    def staff(self, measures: Sequence[Measure], top: float, *, first: bool) -> None:
        self.top = top
        x = MARGIN + self._head(first)
        natural = [1.4 + sum(_width(sign) for sign in measure.signs) + 2 * measure.left for measure in measures]
        free = WIDTH - MARGIN - x
        stretch = min(free / sum(natural), 4.2 * SPACE)
        right = x + stretch * sum(natural)
        for line in range(5):
            self.line([(MARGIN, top + line * SPACE), (right, top + line * SPACE)], 0.9)
        for measure, width in zip(measures, natural, strict=True):
            self._measure(measure, x, x + width * stretch, stretch)
            x += width * stretch

    def _head(self, first: bool) -> float:
        """Clef, signature and (on the first line) meter; the width they take."""
        x = MARGIN + 1.6 * SPACE
        points = [(x + px * SPACE * 0.5, self.top + py * SPACE * 0.5) for px, py in _CLEF]
        self.line(_smooth(points), 2.2)
        self._dot(points[-1][0] + 2 * FINE, points[-1][1], 0.34)
        x += 1.9 * SPACE
        sharps = sum(self.key.values()) > 0
        for number, step in enumerate((_SHARPS if sharps else _FLATS)[: len(self.key)]):
            self._accidental(x + number * 0.95 * SPACE, step, 1 if sharps else -1)
        x += len(self.key) * 0.95 * SPACE + 0.6 * SPACE
        if first and self.tune.meter:
            font = ImageFont.load_default(round(2.4 * SPACE))
            for number, row in zip(self.tune.meter, (1, 3), strict=True):
                self.draw.text((x + SPACE, self.top + row * SPACE), str(number), fill=INK, font=font, anchor="mm")
            x += 2.6 * SPACE
        return x - MARGIN

    def _measure(self, measure: Measure, x: float, right: float, stretch: float) -> None:
        if measure.ending:
            self._ending(measure.ending, x, right)
        if measure.left:
            self._repeat(x + 0.3 * SPACE, begins=True)
            x += 2 * stretch
        x += 0.9 * stretch
        placed, onset = [], Fraction(0)
        for sign in measure.signs:
            placed.append(_Placed(sign, x, onset))
            x += _width(sign) * stretch
            onset += sign.beats
        for group in _beamed(placed, self.beat):
            self._group(group)
        for number, one in enumerate(placed):
            if one.sign.tie:
                to = placed[number + 1].x if number + 1 < len(placed) else right
                self._tie(one, to)
        self._tuplets(placed)
        self._bar_line(measure.right, right)

    # ----------------------------------------------------------------------------------------------- notes and rests
    def _group(self, group: list[_Placed]) -> None:
        """Notes under one beam, or one sign alone."""
        if not group[0].sign.steps:
            self._rest(group[0])
            return
        steps = [step for one in group for step, _ in one.sign.steps]
        up = 2 * 34 > max(steps) + min(steps)  # stems point to the middle line
        for one in group:
            self._heads(one)
        if group[0].sign.written >= 4:
            return
        ends = self._stems(group, up)
        if len(group) == 1:
            self._flags(ends[0], group[0].sign.written, up)
        else:
            self._beams(group, ends, up)

    def _stems(self, group: list[_Placed], up: bool) -> list[tuple[float, float]]:
        """Draw the stems; their free ends lie on one slanted line where there are several."""
        side, length = (0.58 if up else -0.58) * SPACE, 3.3 * SPACE
        far = [max(s for s, _ in one.sign.steps) if up else min(s for s, _ in one.sign.steps) for one in group]
        tips = [self.y(step) - length if up else self.y(step) + length for step in far]
        first, last = group[0].x, group[-1].x
        if len(group) > 1:
            slope = max(-0.12, min(0.12, (tips[-1] - tips[0]) / max(1.0, last - first)))
            lines = [tip - slope * (one.x - first) for tip, one in zip(tips, group, strict=True)]
            base = min(lines) if up else max(lines)
            tips = [base + slope * (one.x - first) for one in group]
        ends = []
        for one, tip in zip(group, tips, strict=True):
            near = min(s for s, _ in one.sign.steps) if up else max(s for s, _ in one.sign.steps)
            self.line([(one.x + side, self.y(near)), (one.x + side, tip)], 1.1)
            ends.append((one.x + side, tip))
        return ends

    def _heads(self, one: _Placed) -> None:
        written = one.sign.written
        for step, own in one.sign.steps:
            for ledger in [*range(TOP_LINE + 2, step + 1, 2), *range(TOP_LINE - 10, step - 1, -2)]:
                self.line([(one.x - SPACE, self.y(ledger)), (one.x + SPACE, self.y(ledger))], 0.9)
            self._head_of(one.x, self.y(step), hollow=written >= 2)
            if own is not None:
                self._accidental(one.x - 1.35 * SPACE, step, own)
            for dot in range(_dots(written)):
                self._dot(one.x + (1.1 + 0.5 * dot) * SPACE, self.y(step + (step + TOP_LINE + 1) % 2), 0.2)

    def _head_of(self, x: float, y: float, *, hollow: bool) -> None:
        def oval(wide: float, high: float, turn: float) -> list[tuple[float, float]]:
            angles = [2 * math.pi * n / 40 for n in range(40)]
            found = [(wide * math.cos(a), high * math.sin(a)) for a in angles]
            c, s = math.cos(turn), math.sin(turn)
            return [(x + px * c - py * s, y + px * s + py * c) for px, py in found]

        self.draw.polygon(oval(0.66 * SPACE, 0.46 * SPACE, -0.35), fill=INK)
        if hollow:
            self.draw.polygon(oval(0.55 * SPACE, 0.22 * SPACE, -0.6), fill=PAPER)

    def _flags(self, end: tuple[float, float], written: Fraction, up: bool) -> None:
        x, y = end
        way = 1 if up else -1
        for number in range(_flag_count(written)):
            at = y + way * number * 0.8 * SPACE
            curve = [(x, at), (x + 0.2 * SPACE, at + way * 0.7 * SPACE), (x + 0.9 * SPACE, at + way * 1.3 * SPACE),
                     (x + 0.7 * SPACE, at + way * 2.3 * SPACE)]  # fmt: skip
            self.line(_smooth(curve), 2.0)

    def _beams(self, group: list[_Placed], ends: list[tuple[float, float]], up: bool) -> None:
        way = 1 if up else -1
        counts = [_flag_count(one.sign.written) for one in group]
        for level in range(max(counts)):
            shift = way * level * 0.75 * SPACE
            for number in range(len(group)):
                if counts[number] <= level:
                    continue
                joined = number + 1 < len(group) and counts[number + 1] > level
                before = number > 0 and counts[number - 1] > level
                if joined:
                    self._beam(ends[number], ends[number + 1], shift, way)
                elif not before:
                    other = ends[number - 1] if number else ends[number + 1]
                    here = ends[number]
                    share = 0.9 * SPACE / max(1.0, abs(other[0] - here[0]))
                    stub = (here[0] + (other[0] - here[0]) * share, here[1] + (other[1] - here[1]) * share)
                    self._beam(here, stub, shift, way)

    def _beam(self, a: tuple[float, float], b: tuple[float, float], shift: float, way: int) -> None:
        thick = way * 0.48 * SPACE
        corners = [
            (a[0], a[1] + shift),
            (b[0], b[1] + shift),
            (b[0], b[1] + shift + thick),
            (a[0], a[1] + shift + thick),
        ]
        self.draw.polygon(corners, fill=INK)

    def _rest(self, one: _Placed) -> None:
        x, written = one.x, one.sign.written
        middle = self.top + 2 * SPACE
        if written >= 2:
            y = middle - SPACE if written >= 4 else middle - 0.5 * SPACE
            self.draw.rectangle([x - 0.6 * SPACE, y, x + 0.6 * SPACE, y + 0.5 * SPACE], fill=INK)
        elif written >= 1:
            shape = [(-0.3, -1.4), (0.4, -0.5), (-0.2, 0.1), (0.4, 0.9), (-0.3, 0.7), (-0.1, 1.5)]
            self.line([(x + px * SPACE, middle + py * SPACE) for px, py in shape], 2.6)
        else:
            for number in range(_flag_count(written)):
                y = middle - 0.5 * SPACE + number * SPACE
                self._dot(x - 0.35 * SPACE, y, 0.28)
                self.line([(x - 0.3 * SPACE, y + 0.2 * SPACE), (x + 0.4 * SPACE, y - 0.1 * SPACE)], 1.4)
            low = middle + (0.5 + _flag_count(written)) * SPACE
            self.line([(x + 0.4 * SPACE, middle - 0.6 * SPACE), (x - 0.1 * SPACE, low)], 1.4)
        for dot in range(_dots(written)):
            self._dot(x + (1.0 + 0.5 * dot) * SPACE, middle - 0.5 * SPACE, 0.2)

    def _tie(self, one: _Placed, to: float) -> None:
        for step, _ in one.sign.steps:
            way = 1 if step < 34 else -1
            y = self.y(step) + way * 0.8 * SPACE
            left, right = one.x + 0.5 * SPACE, max(to - 0.5 * SPACE, one.x + 1.5 * SPACE)
            curve = [(left, y), (left + (right - left) / 2, y + way * 0.8 * SPACE), (right, y)]
            self.line(_smooth(curve), 1.4)

    def _tuplets(self, placed: list[_Placed]) -> None:
        font = ImageFont.load_default(round(1.5 * SPACE))
        for number, one in enumerate(placed):
            if one.sign.tuplet <= 0:
                continue
            group = placed[number : number + one.sign.tuplet]
            steps = [step for each in group for step, _ in each.sign.steps] or [34]
            up = 2 * 34 > max(steps) + min(steps)
            y = self.y(max(steps)) - 4.6 * SPACE if up else self.y(max(steps)) - 1.7 * SPACE
            middle = (group[0].x + group[-1].x) / 2
            self.draw.text((middle, min(y, self.top - SPACE)), str(one.sign.tuplet), fill=INK, font=font, anchor="mm")

    # ------------------------------------------------------------------------------------------------ signs and lines
    def _accidental(self, x: float, step: int, alter: int) -> None:
        y, s = self.y(step), SPACE
        if alter > 0:
            for way in (-0.2, 0.2):
                self.line(
                    [(x + way * s, y - 1.3 * s + way * -0.4 * s), (x + way * s, y + 1.3 * s + way * -0.4 * s)], 1.0
                )
                self.line([(x - 0.5 * s, y + way * 2 * s + 0.16 * s), (x + 0.5 * s, y + way * 2 * s - 0.16 * s)], 2.6)
        elif alter < 0:
            self.line([(x - 0.3 * s, y - 1.8 * s), (x - 0.3 * s, y + 0.6 * s)], 1.1)
            bowl = [
                (x - 0.3 * s, y - 0.25 * s),
                (x + 0.3 * s, y - 0.5 * s),
                (x + 0.35 * s, y),
                (x - 0.3 * s, y + 0.6 * s),
            ]
            self.line(_smooth(bowl), 1.8)
        else:
            self.line([(x - 0.28 * s, y - 1.4 * s), (x - 0.28 * s, y + 0.55 * s)], 1.1)
            self.line([(x + 0.28 * s, y - 0.55 * s), (x + 0.28 * s, y + 1.4 * s)], 1.1)
            for way in (-0.42, 0.42):
                self.line([(x - 0.28 * s, y + way * s + 0.1 * s), (x + 0.28 * s, y + way * s - 0.1 * s)], 2.4)

    def _dot(self, x: float, y: float, radius: float) -> None:
        r = radius * SPACE
        self.draw.ellipse([x - r, y - r, x + r, y + r], fill=INK)

    def _bar_line(self, kind: str, x: float) -> None:
        ends = (self.top, self.top + 4 * SPACE)
        if kind == ":|":
            self._repeat(x, begins=False)
        elif kind == "|]":
            self.line([(x - 0.8 * SPACE, ends[0]), (x - 0.8 * SPACE, ends[1])], 1.0)
            self.line([(x - 0.2 * SPACE, ends[0]), (x - 0.2 * SPACE, ends[1])], 3.6)
        else:
            for back in (0.0, 0.5) if kind == "||" else (0.0,):
                self.line([(x - back * SPACE, ends[0]), (x - back * SPACE, ends[1])], 1.0)

    def _repeat(self, x: float, *, begins: bool) -> None:
        way = 1 if begins else -1
        for away, width in ((0.2, 3.6), (0.75, 1.0)):
            at = x + way * away * SPACE
            self.line([(at, self.top), (at, self.top + 4 * SPACE)], width)
        for row in (1.5, 2.5):
            self._dot(x + way * 1.25 * SPACE, self.top + row * SPACE, 0.22)

    def _ending(self, text: str, x: float, right: float) -> None:
        y = self.top - 2.6 * SPACE
        self.line([(x + 0.2 * SPACE, y + 1.2 * SPACE), (x + 0.2 * SPACE, y), (right - 0.6 * SPACE, y)], 1.0)
        font = ImageFont.load_default(round(1.4 * SPACE))
        self.draw.text((x + 0.6 * SPACE, y + 0.9 * SPACE), text + ".", fill=INK, font=font, anchor="lm")


def _width(sign: Sign) -> float:
    """Room of a sign in units: longer ones take more, but not in proportion; accidentals take a little."""
    wide = 1.0 + 0.45 * max(0.0, math.log2(float(max(sign.written, Fraction(1, 8)) * 4)))
    return wide + 0.5 * any(own is not None for _, own in sign.steps)


def _beamed(placed: Sequence[_Placed], beat: Fraction) -> list[list[_Placed]]:
    """Signs by beam: neighbors shorter than a quarter that lie in one beat; everything else alone."""
    groups: list[list[_Placed]] = []
    for one in placed:
        before = groups[-1][-1] if groups else None
        joins = (
            before is not None
            and one.sign.steps
            and before.sign.steps
            and one.sign.written < 1
            and before.sign.written < 1
            and one.onset // beat == before.onset // beat
        )
        if joins:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _flag_count(written: Fraction) -> int:
    return 0 if written >= 1 else max(1, math.ceil(-math.log2(float(written) + 1e-9) - 1e-6))


def _dots(written: Fraction) -> int:
    return {3: 1, 7: 2}.get(written.numerator, 0)


def _smooth(points: Sequence[tuple[float, float]], steps: int = 10) -> list[tuple[float, float]]:
    """A Catmull-Rom curve through the points."""
    padded = [points[0], *points, points[-1]]
    found = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for number in range(steps):
            s = number / steps
            found.append(
                tuple(
                    0.5 * (2 * q + (r - p) * s + (2 * p - 5 * q + 4 * r - u) * s**2 + (3 * q - p - 3 * r + u) * s**3)
                    for p, q, r, u in zip(a, b, c, d, strict=True)
                )
            )
    return [*found, points[-1]]  # type: ignore[list-item]
