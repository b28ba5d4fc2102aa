"""Images as models take them: JPEG, PNG, WebP or GIF, upright, of a single frame, no larger than asked for.

What is such an image already is sent byte for byte. Others are made anew: what was JPEG or WebP as JPEG, everything else, and
what is transparent, as PNG. Only the decoders of the formats here are ever used, whatever else Pillow could read.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import threading
from typing import TYPE_CHECKING, NamedTuple

from .errors import FileFault

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MOST_PIXELS = 50_000_000  # a decoded image takes up to four bytes a pixel, and what is made of it again
MOST_JPEG_PIXELS = 100_000_000  # which can be decoded at a fraction of its size
_LARGE_PIXELS = 16_000_000
_LARGE = threading.Lock()  # so large ones are decoded one at a time
_QUALITY = 90
_ORIENTATION = 0x0112
_PATCH = 28  # pixels a side that make a token
_MOST_TOKENS = 16_384
_SENT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA, _WITHOUT = ("LA", "PA", "La", "RGBA", "RGBa"), ("RGB", "RGBX", "CMYK", "YCbCr", "HSV", "P")
# By EXIF orientation, the method of PIL.Image.Transpose that turns the image upright.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class _Format(NamedTuple):
    plugin: str
    type: str
    mime: str | None  # under which it is sent as it is, if it can be


_JPEG = _Format("JpegImagePlugin", "JpegImageFile", "image/jpeg")
_PNG = _Format("PngImagePlugin", "PngImageFile", "image/png")
_WEBP = _Format("WebPImagePlugin", "WebPImageFile", "image/webp")
_GIF = _Format("GifImagePlugin", "GifImageFile", "image/gif")
_BMP = _Format("BmpImagePlugin", "BmpImageFile", None)
_TIFF = _Format("TiffImagePlugin", "TiffImageFile", None)
_BEGINNINGS = (
    (b"\xff\xd8\xff", _JPEG), (b"\x89PNG\r\n\x1a\n", _PNG), (b"GIF87a", _GIF), (b"GIF89a", _GIF), (b"BM", _BMP),
    (b"II*\0", _TIFF), (b"MM\0*", _TIFF),
)  # fmt: skip
_CAN_BE = "JPEG, PNG, WebP, GIF, BMP and TIFF can be sent"
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")


class Size(NamedTuple):
    width: int
    height: int

    def within(self, most: int | None) -> Size:
        """The same no larger than ``most`` a side, in proportion."""
        longest = max(self)
        if most is None or longest <= most:
            return self
        return Size(*(max(1, round(side * most / longest)) for side in self))

    @property
    def tokens(self) -> int:
        """About how many an image of this size takes: one for each 28 × 28 pixels, as many models count."""
        return min(_MOST_TOKENS, math.ceil(self.width / _PATCH) * math.ceil(self.height / _PATCH))


def size_of(data: bytes) -> Size:
    """By its header; nothing is decoded.

    :raises FileFault: if it is no image that can be sent, or too large.
    """
    image, _ = _opened(data)
    with image:
        return Size(*image.size)


def encoded(data: bytes, most: int | None) -> tuple[str, bytes]:
    """The MIME type and the bytes to be sent, of an image no larger than ``most`` pixels a side. All of it is decoded anyway,
    so that damage is found.

    :raises FileFault: if it is damaged, or no image that can be sent.
    """
    image, kind = _opened(data)
    width, height = image.size
    with image, _LARGE if width * height > _LARGE_PIXELS else contextlib.nullcontext():
        try:
            return _encoded(image, kind, data, most)
        except FileFault:
            raise
        except MemoryError:
            raise FileFault("is too large an image for the memory that there is; make it smaller") from None
        except Exception as error:  # decoders raise whatever they like about damage
            raise FileFault(_damaged(error)) from None


def _opened(data: bytes) -> tuple[ImageFile, _Format]:
    kind = next((kind for beginning, kind in _BEGINNINGS if data.startswith(beginning)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = _WEBP
    if kind is None:
        raise FileFault(_refusal(data))
    try:
        plugin = importlib.import_module(f"PIL.{kind.plugin}")
        image: ImageFile = getattr(plugin, kind.type)(io.BytesIO(data))
    except Exception as error:
        raise FileFault(_damaged(error)) from None
    width, height = image.size
    most = MOST_JPEG_PIXELS if kind is _JPEG else MOST_PIXELS
    if width * height > most:
        image.close()
        other = "" if kind is _JPEG else f", or a JPEG (up to {MOST_JPEG_PIXELS // 1_000_000} million)"
        raise FileFault(
            f"has {width:,} × {height:,} pixels, and more than {most // 1_000_000} million are too many; make it smaller{other}"
        )
    return image, kind


def _refusal(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return f"is HEIC or AVIF, which is not supported; convert it ({_CAN_BE})"
    if data.startswith(b"%PDF"):
        return "is a PDF document, no image; its text is put in by | pdf_text"
    return f"is no image ({_CAN_BE})"


def _damaged(error: Exception) -> str:
    return f"is a damaged image ({str(error) or type(error).__name__:.100})"


def _encoded(image: ImageFile, kind: _Format, data: bytes, most: int | None) -> tuple[str, bytes]:
    from PIL import Image

    if image.mode not in (*_SENT_MODES, *_WITH_ALPHA, *_WITHOUT, *_DEEP):
        raise FileFault(f"has pixels of a kind that cannot be sent (mode {image.mode}); convert it to RGB")
    is_single = not getattr(image, "is_animated", False)
    size = Size(*image.size)
    target = size.within(most)
    if kind is _JPEG:
        is_sent = target == size and image.mode in _SENT_MODES and image.getexif().get(_ORIENTATION, 1) not in _TURNS
        least = (1, 1) if is_sent else (2 * target.width, 2 * target.height)
        image.draft(
            None, least
        )  # decoded at a fraction of its size: to see whether it is whole, or as large as is needed
    image.load()
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if kind.mime is not None and is_single and turn is None and target == size and image.mode in _SENT_MODES:
        return kind.mime, data
    made = _plain(image)
    if turn is not None:
        made = made.transpose(Image.Transpose[turn])
    if (fitting := Size(*made.size).within(most)) != made.size:
        made = made.resize(fitting, Image.Resampling.LANCZOS)
    profile = image.info.get("icc_profile") if made.mode == image.mode else None
    made.info = {}
    into = io.BytesIO()
    if kind in (_JPEG, _WEBP) and made.mode != "RGBA":
        made.save(into, "JPEG", quality=_QUALITY, icc_profile=profile)
        return "image/jpeg", into.getvalue()
    made.save(into, "PNG", icc_profile=profile)
    return "image/png", into.getvalue()


def _plain(image: Image) -> Image:
    """As ``L``, ``RGB`` or ``RGBA``."""
    if image.mode in _DEEP:
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB" if image.mode in _WITHOUT else "L")
