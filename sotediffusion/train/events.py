"""Event files that TensorBoard reads, written without it: numbers and pictures of a run by images seen.

A file is a row of records, each with its length and two masked CRC-32C; a record is an Event in Protocol Buffers' wire format.
The few fields that are needed are numbered in TensorFlow's event.proto and summary.proto.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # kinds of fields
WALL_TIME, STEP, VERSION, SUMMARY, SESSION = 1, 2, 3, 5, 7  # of an Event
VALUE = 1  # of a Summary
TAG, SIMPLE, IMAGE = 1, 2, 4  # of a Value
HEIGHT, WIDTH, COLOURS, ENCODED = 1, 2, 3, 4  # of an Image
START = 1  # of a SessionLog's status: what lies at this step and beyond is of an earlier session and is forgotten


def _table() -> list[int]:
    entries = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        entries.append(value)
    return entries


_CRC = _table()


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, bits reflected."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, value: int | float | bytes | str, narrow: bool = False) -> bytes:
    if isinstance(value, float):
        kind, content = (FLOAT, struct.pack("<f", value)) if narrow else (DOUBLE, struct.pack("<d", value))
    elif isinstance(value, int):
        kind, content = VARINT, _number(value)
    else:
        value = value.encode() if isinstance(value, str) else value
        kind, content = BYTES, _number(len(value)) + value
    return _number(number << 3 | kind) + content


class Events:
    """One session's file in a folder; `resumed` images were seen before."""

    def __init__(self, folder: Path, resumed: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self.file = open(folder / name, "ab")
        self._write(_field(VERSION, "brain.Event:2"))
        self._write(_field(STEP, resumed + 1) + _field(SESSION, _field(START, START)))

    def numbers(self, images: int, numbers: Mapping[str, float]) -> None:
        """Some numbers at a point of the run."""
        values = [_field(TAG, tag) + _field(SIMPLE, float(value), narrow=True) for tag, value in numbers.items()]
        self._summary(images, values)

    def picture(self, images: int, tag: str, content: bytes, size: tuple[int, int]) -> None:
        """A picture file of this width and height."""
        width, height = size
        picture = _field(HEIGHT, height) + _field(WIDTH, width) + _field(COLOURS, 3) + _field(ENCODED, content)
        self._summary(images, [_field(TAG, tag) + _field(IMAGE, picture)])

    def close(self) -> None:
        """No more is coming."""
        self.file.close()

    def _summary(self, images: int, values: list[bytes]) -> None:
        summary = b"".join(_field(VALUE, value) for value in values)
        self._write(_field(STEP, images) + _field(SUMMARY, summary))

    def _write(self, event: bytes) -> None:
        record = _field(WALL_TIME, time.time()) + event
        length = struct.pack("<Q", len(record))
        self.file.write(length + _masked(length) + record + _masked(record))
        self.file.flush()
