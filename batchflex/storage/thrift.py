"""Thrift's compact protocol, which the footers and page headers of Parquet files are written in. Pure.

A struct is a dict from the number of each field to its type and value; a list is the type of its elements and these. So what
is not looked at stays as it was.
"""

from __future__ import annotations

from typing import Any

Struct = dict[int, tuple[int, Any]]

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_DEEPEST = 20  # structs and lists in each other; those of Parquet are nine
_MOST_BYTES = 10  # of an integer


class Damaged(ValueError):
    """What was read is none of this."""


def read(data: bytes, at: int, depth: int) -> tuple[Struct, int]:
    """The struct that begins there, and where it ends. Lists and structs that are so deep in it are bytes, as they are written.

    :raises Damaged: if there is none.
    """
    try:
        return _struct(data, at, depth)
    except IndexError:
        raise Damaged("it ends too early") from None


def _struct(data: bytes, at: int, depth: int) -> tuple[Struct, int]:
    found: Struct = {}
    number = 0
    while head := data[at]:
        at += 1
        kind = head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        if I16 <= kind <= I64:
            value, at = _integer(data, at)
        elif TRUE <= kind <= FALSE:
            value = None
        else:
            value, at = _value(data, at, kind, depth - 1)
        found[number] = kind, value
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > 0 and kind == STRUCT:
        return _struct(data, at, depth)
    if depth > 0 and kind in (LIST, SET):
        of, size, at = _head_of_list(data, at)
        values = []
        for _ in range(size):
            value, at = _value(data, at, of, depth - 1)
            values.append(value)
        return (of, values), at
    if I16 <= kind <= I64:
        return _integer(data, at)
    begin, at = at, _end(data, at, kind, _DEEPEST)
    if at > len(data):
        raise IndexError
    if kind == BINARY:
        _, begin = _varint(data, begin)
    return data[begin:at], at


def _end(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value ends."""
    if not depth:
        raise Damaged("it is nested too deeply")
    if kind == STRUCT:
        while head := data[at]:
            at += 1
            if head < 16:
                at = _end_of_integer(data, at)
            kind = head & 15
            if I16 <= kind <= I64:
                at = _end_of_integer(data, at)
            elif not TRUE <= kind <= FALSE:
                at = _end(data, at, kind, depth - 1)
        return at + 1
    if I16 <= kind <= I64:
        return _end_of_integer(data, at)
    if kind == BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind in (LIST, SET):
        of, size, at = _head_of_list(data, at)
        for _ in range(size):
            at = _end(data, at, of, depth - 1)
        return at
    if kind in (TRUE, FALSE, BYTE, DOUBLE):
        return at + (8 if kind == DOUBLE else 1)
    raise Damaged(f"it has a field of the unknown type {kind}")


def _head_of_list(data: bytes, at: int) -> tuple[int, int, int]:
    """The type of the elements, how many there are, and where they begin."""
    of, size = data[at] & 15, data[at] >> 4
    size, at = (size, at + 1) if size < 15 else _varint(data, at + 1)
    if size > len(data) - at:  # each takes a byte at least
        raise IndexError
    return of, size, at


def _end_of_integer(data: bytes, at: int) -> int:
    while data[at] > 127:
        at += 1
    return at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value, shift = byte & 127, 7
    while byte > 127:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        shift += 7
        if shift > 7 * _MOST_BYTES:
            raise Damaged("it has a number that is too long")
    return value, at + 1


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def written(fields: Struct) -> bytes:
    """The reverse of :func:`read`, of whatever depth."""
    out = bytearray()
    _put(out, STRUCT, fields)
    return bytes(out)


def _put(out: bytearray, kind: int, value: Any) -> None:
    if I16 <= kind <= I64:
        _put_integer(out, value)
    elif isinstance(value, bytes):
        if kind == BINARY:
            _put_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        before = 0
        for number, (each, field) in sorted(value.items()):
            if 0 < number - before < 16:
                out.append((number - before) << 4 | each)
            else:
                out.append(each)
                _put_integer(out, number)
            before = number
            if each > FALSE:
                _put(out, each, field)
        out.append(0)
    else:
        of, values = value
        if len(values) < 15:
            out.append(len(values) << 4 | of)
        else:
            out.append(0xF0 | of)
            _put_varint(out, len(values))
        for each in values:
            _put(out, of, each)


def _put_integer(out: bytearray, value: int) -> None:
    _put_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
