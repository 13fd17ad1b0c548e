"""A MIDI performance as a picture: a piano roll in lines of bars, a colour an instrument, drums below.

Drawn with Pillow at twice the size and brought down.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from intaglio.media._midi import DRUMS, Performance, Sounding, part_name

FINE = 2
WIDTH, MARGIN, HEAD, GAP = 1_000, 34, 46, 18
ROW = 5  # pixels of a semitone, and of a kind of drum
BARS_A_LINE, MAX_LINES = 8, 12
INK, PAPER, LINE, BLACK_KEY = (20, 20, 24), (255, 253, 248), (205, 200, 190), (244, 240, 231)
COLOURS = (
    (38, 84, 124), (196, 69, 54), (64, 130, 92), (214, 143, 40), (120, 80, 150), (60, 150, 165), (150, 100, 60),
    (200, 90, 140), (100, 115, 40), (80, 80, 200), (170, 130, 20), (30, 110, 110), (150, 50, 90), (110, 110, 110),
    (40, 160, 60), (20, 20, 24),
)  # fmt: skip


def png(piece: Performance, *, title: str = "") -> bytes:
    """The piano roll as PNG bytes, 1,000 pixels wide, eight bars a line; cut after ``MAX_LINES`` lines."""
    starts = piece.bar_starts()
    lines = [starts[n : n + BARS_A_LINE + 1] for n in range(0, len(piece.bars), BARS_A_LINE)][:MAX_LINES]
    page = _Page(piece, lines)
    page.head(title or piece.title)
    for number in range(len(lines)):
        page.line(number)
    out = io.BytesIO()
    small = page.picture.resize((WIDTH, page.picture.height // FINE), Image.Resampling.LANCZOS)
    small.quantize(255).save(out, "PNG", optimize=True)
    return out.getvalue()


class _Page:
    """Draws one performance. lanes: (is a drum, pitch) to the number of its lane from above."""

    def __init__(self, piece: Performance, lines: Sequence[Sequence[int]]) -> None:
        self.piece, self.lines = piece, lines
        pitches = [note.pitch for note in piece.notes if note.program != DRUMS]
        rows = [(False, pitch) for pitch in range(max(pitches) + 1, min(pitches) - 2, -1)] if pitches else []
        rows += [(True, pitch) for pitch in sorted({n.pitch for n in piece.notes if n.program == DRUMS}, reverse=True)]
        self.lanes = {row: number for number, row in enumerate(rows)}
        self.scale = (WIDTH - 2 * MARGIN) / max(line[-1] - line[0] for line in lines)
        height = HEAD + len(lines) * (len(rows) * ROW + GAP) + 6
        self.picture = Image.new("RGB", (WIDTH * FINE, height * FINE), PAPER)
        self.draw = ImageDraw.Draw(self.picture)
        melodic = [program for program in piece.programs if program != DRUMS]
        self.colours = {program: COLOURS[number] for number, program in enumerate(melodic)} | {DRUMS: INK}

    def head(self, title: str) -> None:
        """The title, and the name of each colour."""
        self.draw.text((MARGIN * FINE, 6 * FINE), title, fill=INK, font=ImageFont.load_default(15 * FINE))
        small, x, programs = ImageFont.load_default(10 * FINE), float(MARGIN * FINE), self.piece.programs
        for number, program in enumerate(programs):
            if x > (WIDTH - 170) * FINE:
                self.draw.text((x, 26 * FINE), f"+ {len(programs) - number}", fill=INK, font=small)
                break
            self.draw.rectangle([x, 29 * FINE, x + 8 * FINE, 36 * FINE], fill=self.colours[program])
            self.draw.text((x + 11 * FINE, 26 * FINE), part_name(program), fill=INK, font=small)
            x += 24 * FINE + self.draw.textlength(part_name(program), font=small)

    def line(self, number: int) -> None:
        """One line of bars: black keys, names of the octaves, bar lines, notes."""
        starts, top = self.lines[number], self.top(number)
        left, right = MARGIN * FINE, (MARGIN + (starts[-1] - starts[0]) * self.scale) * FINE
        small = ImageFont.load_default(9 * FINE)
        for (drums, pitch), lane in self.lanes.items():
            y = (top + lane * ROW) * FINE
            if not drums and pitch % 12 in (1, 3, 6, 8, 10):
                self.draw.rectangle([left, y, right, y + ROW * FINE - 1], fill=BLACK_KEY)
            elif not drums and pitch % 12 == 0:
                self.draw.text((10 * FINE, y - 3 * FINE), f"C{pitch // 12 - 1}", fill=INK, font=small)
        for start in starts:
            x = (MARGIN + (start - starts[0]) * self.scale) * FINE
            self.draw.line([x, top * FINE, x, (top + len(self.lanes) * ROW) * FINE], fill=LINE, width=FINE)
        for note in self.piece.notes:
            self.note(note, number)

    def top(self, number: int) -> int:
        return HEAD + number * (len(self.lanes) * ROW + GAP)

    def note(self, note: Sounding, number: int) -> None:
        """The part of a note that lies in this line; a stroke on a drum is short, whatever its duration."""
        begin, stop = self.lines[number][0], self.lines[number][-1]
        length = min(note.duration, 2) if note.program == DRUMS else note.duration
        first, end = max(note.onset, begin), min(note.onset + length, stop)
        if end <= first:
            return
        y = (self.top(number) + self.lanes[note.program == DRUMS, note.pitch] * ROW) * FINE
        x = [(MARGIN + (step - begin) * self.scale) * FINE for step in (first, end)]
        pale = 0.45 * (1 - note.velocity / 127)
        colour = tuple(round(c + (255 - c) * pale) for c in self.colours[note.program])
        self.draw.rectangle([x[0], y, max(x[0] + 1, x[1] - FINE), y + ROW * FINE - 1], fill=colour)
