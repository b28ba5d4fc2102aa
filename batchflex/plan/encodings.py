"""In which encoding a text is that is no UTF-8: told from its bytes alone.

Detectors often err on the short lines of a table, so that the common cases are decided by what marks them: in the languages of
Western Europe a few letters of ASCII words have accents, Japanese has kana, Korean and Chinese have common syllables and
characters. Only for the rest a detector is asked.
"""

from __future__ import annotations

import codecs
import re

_MOST = 1 << 16  # bytes that are looked at
# In a text of Western Europe: what stands in words; what stands between them.
_LETTERS = frozenset("àáâãäåæçèéêëìíîïñòóôõöøœùúûüýÿßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØŒÙÚÛÜÝ")
_SIGNS = frozenset("€‚„…‘’“”•–—™›‹¡¢£¥§©ª«®°±²³´µ¶·¹º»¼½¾¿×÷\xa0\xad")
_ICELANDIC, _ACUTE = frozenset("ðþÐÞ"), frozenset("áéíóúæ")
_STRANGE_SHARE, _RUN_SHARE, _ACCENTED_SHARE = 0.08, 0.3, 0.4
_KANA = re.compile("[\u3041-\u30ff]")
_BEYOND_ASCII = re.compile("[^\x00-\x7f]")
# The commonest syllables of Korean: a third to a half of any text.
_KOREAN = re.compile(
    "[이다는을에가고하지의은로기사도를리인자서어해수대시니나그아라일게있들구정전보스제부주만과한으면여안했습요세입감]"
)
# Of alphabets that a detector tells from one another; those of the Far East it often takes one for the other.
_ALPHABETS = [
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "koi8_r", "mac_roman", "cp874",
]  # fmt: skip
_HEBREW = range(0xE0, 0xFB)
_ENOUGH = 12  # letters
_COMMON_GB, _COMMON_BIG5 = range(0xB0, 0xD8), range(0xA4, 0xC7)


def legacy(text: bytes) -> str:
    """The encoding of lines that are no UTF-8, as Python names it; Windows-1252 where nothing can be told."""
    text = text[:_MOST]
    if _is_western(text):
        return "cp1252"
    if (eastern := _eastern(text)) is not None:
        return eastern
    high = [byte for byte in text if byte >= 0x80]
    if len(high) >= _ENOUGH and all(byte in _HEBREW for byte in high):
        return "cp1255"  # Cyrillic would have letters beyond, too
    import charset_normalizer

    best = charset_normalizer.from_bytes(text, cp_isolation=_ALPHABETS, enable_fallback=False).best()
    return "cp1252" if best is None else codecs.lookup(best.encoding).name


def _is_western(text: bytes) -> bool:
    try:
        read = text.decode("cp1252")
    except UnicodeDecodeError:
        return False
    high = strange = runs = 0
    # Letters of Icelandic, or others in Turkish and Romanian.
    is_icelandic = not _ACUTE.isdisjoint(read) and "ç" not in read
    letters_here = _LETTERS | _ICELANDIC if is_icelandic else _LETTERS
    for at, sign in enumerate(read):
        if sign < "\x80":
            continue
        high += 1
        before, after = read[at - 1 : at], read[at + 1 : at + 2]
        if sign in _SIGNS:
            strange += before.isalpha() and after.isalpha() and sign not in "’‘´·\xad"
        elif sign in letters_here:
            # Two of them in a row are nothing special ("Grüße"), three are.
            runs += after in letters_here and read[at + 2 : at + 3] >= "\x80"
        else:
            strange += 1
    letters = sum(map(str.isalpha, read))
    # Hungarian has letters in the places of these two.
    is_hungarian = {"õ", "û"} <= {*read}
    return (
        strange <= _STRANGE_SHARE * high
        and runs <= _RUN_SHARE * high
        and high <= _ACCENTED_SHARE * max(letters, 1) + 3
        and not is_hungarian
    )


def _decoded(text: bytes, encoding: str) -> str:
    """The characters beyond ASCII in this encoding; none if some bytes are not of it, but for what is cut off at the end."""
    try:
        return "".join(_BEYOND_ASCII.findall(codecs.getincrementaldecoder(encoding)().decode(text)))
    except UnicodeDecodeError:
        return ""


def _eastern(text: bytes) -> str | None:
    for encoding in ("cp932", "euc_jp"):
        if (read := _decoded(text, encoding)) and len(_KANA.findall(read)) >= 0.2 * len(read):
            return encoding
    if (read := _decoded(text, "euc_kr")) and len(_KOREAN.findall(read)) >= 0.2 * len(read):
        return "cp949"
    if (read := _decoded(text, "gb2312")) and _common(read, "gb2312", _COMMON_GB) >= 0.6:
        return "gb18030"
    if (read := _decoded(text, "big5")) and _common(read, "big5", _COMMON_BIG5) >= 0.8:
        return "big5"
    return None


def _common(read: str, encoding: str, leads: range) -> float:
    """Of Chinese characters the share of those that are in daily use."""
    found = [sign for sign in read if "\u4e00" <= sign <= "\u9fff"]
    return sum(sign.encode(encoding)[0] in leads for sign in found) / len(found) if found else 0.0
