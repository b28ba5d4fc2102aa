"""Files that prompts put in: PDF documents made by hand, and what an endpoint was sent of images."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def pdf(*pages: str) -> bytes:
    """A PDF document that says this on its pages; an empty text is a page without any."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {5 + 2 * number} 0 R >>".encode())
        drawn = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET".encode() if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%b\nendstream" % (len(drawn), drawn))
    made, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%b\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    trailer = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(made))
    return made + head + table + trailer


def picture(width: int = 60, height: int = 40, kind: str = "JPEG", mode: str = "RGB", **how: Any) -> bytes:
    """An image with a different colour in each quarter: red and green above, blue and white below."""
    image = Image.new("RGB", (width, height), "white")
    for colour, left, top in (("red", 0, 0), ("lime", width // 2, 0), ("blue", 0, height // 2)):
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    into = io.BytesIO()
    image.convert(mode).save(into, kind, **how)
    return into.getvalue()


def sent_image(url: str) -> Image.Image:
    """The image of a data URL, decoded, and of the type that it says."""
    head, _, data = url.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert image.get_format_mimetype() == head.removeprefix("data:")
    image.load()
    return image
