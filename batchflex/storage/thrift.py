"""Thrift's compact protocol, which the footers and page headers of Parquet files are written in. Pure.

A struct is a dict from the number of each field to its type and value; a list is the type of its elements and these. So what
is not looked at stays as it was.
"""

from __future__ import annotations

import struct
from typing import Any

Struct = dict[int, tuple[int, Any]]

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)


class Damaged(ValueError):
    """What was read is none of this."""


def read(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins there, and where it ends.

    :raises Damaged: if there is none.
    """
    try:
        return _struct(data, at)
    except (IndexError, struct.error) as error:
        raise Damaged(f"its metadata ends too early: {error}") from None


def _struct(data: bytes, at: int) -> tuple[Struct, int]:
    found: Struct = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        kind = head & 15
        if kind <= FALSE:
            found[number] = kind, None
        else:
            value, at = _value(data, at, kind)
            found[number] = kind, value
    return found, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if I16 <= kind <= I64:
        return _integer(data, at)
    if kind == BINARY:
        size, at = _varint(data, at)
        if at + size > len(data):
            raise IndexError(at)
        return data[at : at + size], at + size
    if kind == STRUCT:
        return _struct(data, at)
    if kind in (LIST, SET):
        size, of = data[at] >> 4, data[at] & 15
        at += 1
        if size == 15:
            size, at = _varint(data, at)
        values = []
        for _ in range(size):
            value, at = (data[at], at + 1) if of <= BYTE else _value(data, at, of)
            values.append(value)
        return (of, values), at
    if kind == DOUBLE:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == BYTE:
        return data[at], at + 1
    raise Damaged(f"its metadata has a field of the unknown type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def written(fields: Struct) -> bytes:
    """The reverse of :func:`read`."""
    out = bytearray()
    _put_struct(out, fields)
    return bytes(out)


def _put_struct(out: bytearray, fields: Struct) -> None:
    before = 0
    for number, (kind, value) in sorted(fields.items()):
        if number - before < 16:
            out.append((number - before) << 4 | kind)
        else:
            out.append(kind)
            _put_varint(out, number << 1)
        before = number
        if kind > FALSE:
            _put(out, kind, value)
    out.append(0)


def _put(out: bytearray, kind: int, value: Any) -> None:
    if I16 <= kind <= I64:
        _put_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
    elif kind == BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _put_struct(out, value)
    elif kind in (LIST, SET):
        of, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | of)
        else:
            out.append(0xF0 | of)
            _put_varint(out, len(values))
        for each in values:
            if of <= BYTE:
                out.append(each)
            else:
                _put(out, of, each)
    elif kind == DOUBLE:
        out += struct.pack("<d", value)
    else:
        out.append(value)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
