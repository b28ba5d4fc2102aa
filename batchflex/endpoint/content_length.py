"""Heads of answers that give their length more than once (RFC 9112, 6.3). Pure."""

from __future__ import annotations

import re


def with_one_length(data: bytes) -> bytes | None:
    """What a server sent, with one length where it gave several that agree, and none beside chunks (RFC 9112, 6.3);
    ``None`` if its head is not whole yet.

    :raises ValueError: if the lengths differ, or are none.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    if re.match(rb"HTTP/1\.[01] 1\d\d", head):  # nothing that an answer to come depends on
        return with_one_length(rest)
    lines = head.split(b"\r\n")
    lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
    given = {each.strip() for line in lengths for each in line.partition(b":")[2].split(b",")}
    lines = [line for line in lines if line not in lengths]
    if not any(line.lower().startswith(b"transfer-encoding:") for line in lines):
        if len(given) != 1 or not min(given).isdigit():
            said = b", ".join(sorted(given)).decode("latin-1")
            raise ValueError(f"not HTTP: the answer has several content lengths, {said:.100}")
        lines.append(b"content-length: " + given.pop())
    return b"\r\n".join(lines) + blank + rest
