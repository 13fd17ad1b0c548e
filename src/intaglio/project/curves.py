"""Curves as event files that TensorBoard reads, written without it: one scalar a record, flushed as it comes.

Format: TFRecord (length, masked CRC-32C of it, data, masked CRC-32C) around the protocol buffers ``Event``,
        ``Summary`` and ``SessionLog`` of TensorFlow. A record of a new start tells readers to forget later steps of
        before a kill (``SessionLog.START``), so that a step that was made twice is shown once.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from io import BufferedWriter
from pathlib import Path


class Curves:
    """Writes below ``folder``; a file is begun at the first point. Not being able to write is no reason to stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: BufferedWriter | None = None
        self._broken = False

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One point; ``values`` by name, numbers only."""
        if self._broken:
            return
        try:
            file = self._file or self._begin(step)
            summary = b"".join(_message(1, _text(1, name) + _float(2, value)) for name, value in values.items())
            file.write(_record(_double(1, time.time()) + _varint(2, step) + _message(5, summary)))
            file.flush()
        except OSError:
            self._broken = True  # a full disk: the curve is in the ledger all the same

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()

    def _begin(self, step: int) -> BufferedWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        again = any(self.folder.glob("*.tfevents.*"))
        seconds, rest = divmod(time.time_ns(), 10**9)
        self._file = (self.folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}").open("xb")
        self._file.write(_record(_double(1, time.time()) + _text(3, "brain.Event:2")))
        if again:
            start = _varint(1, 1)  # SessionLog.status = START
            self._file.write(_record(_double(1, time.time()) + _varint(2, step) + _message(7, start)))
        return self._file


# ------------------------------------------------------------------------------------------------- protocol buffers
def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _double(field: int, value: float) -> bytes:
    return _number(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _number(field << 3 | 5) + struct.pack("<f", value)


def _message(field: int, data: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(data)) + data


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


# --------------------------------------------------------------------------------------------------------- records
def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # the polynomial of Castagnoli, bits reversed
    return value


_TABLE = [_entry(value) for value in range(256)]
