"""Images as they are sent: upright, of one frame, no larger than asked for; and what cannot be sent, with words."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from batchflex.attachments import FileFault, images
from tests.support.files import picture

UPRIGHT = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of the quarters, as of the four pixels of the whole."""
    plain = image.convert("RGB")
    width, height = plain.size
    places = [
        (width // 4, height // 4),
        (3 * width // 4, height // 4),
        (width // 4, 3 * height // 4),
        (3 * width // 4, 3 * height // 4),
    ]
    return [plain.getpixel(place) for place in places]


def assert_upright(image: Image.Image) -> None:
    for found, wanted in zip(corners(image), UPRIGHT, strict=True):
        assert all(abs(one - other) < 40 for one, other in zip(found, wanted, strict=True)), (found, wanted)


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")])
def test_what_models_take_is_sent_byte_for_byte(kind: str, mime: str) -> None:
    data = picture(kind=kind)
    assert images.encoded(data, None) == images.encoded(data, 60) == (f"image/{mime}", data)
    assert images.size_of(data) == (60, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize(("most", "size"), [(30, (30, 20)), (16, (16, 11)), (59, (59, 39))])
def test_a_large_image_is_made_smaller_in_proportion(kind: str, most: int, size: tuple[int, int]) -> None:
    mime, data = images.encoded(picture(kind=kind), most)
    made = opened(data)
    assert made.size == size and made.get_format_mimetype() == mime
    assert mime == ("image/jpeg" if kind in ("JPEG", "WEBP") else "image/png")
    assert_upright(made)


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_formats_that_models_do_not_take_become_png(kind: str) -> None:
    mime, data = images.encoded(picture(kind=kind), None)
    assert mime == "image/png" and opened(data).size == (60, 40)
    assert_upright(opened(data))


@pytest.mark.parametrize("most", [None, 30])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (8, Image.Transpose.ROTATE_270)],
)
def test_an_image_is_turned_as_its_camera_says(
    orientation: int, turned: Image.Transpose, kind: str, most: int | None
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = opened(picture(kind="PNG")).transpose(turned)
    into = io.BytesIO()
    lying.save(into, kind, exif=exif)
    made = opened(images.encoded(into.getvalue(), most)[1])
    assert made.size == ((30, 20) if most else (60, 40))
    assert_upright(made)
    assert made.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("most", [None, 30])
def test_colours_of_print_become_those_of_screens(most: int | None) -> None:
    made = opened(images.encoded(picture(mode="CMYK"), most)[1])
    assert made.mode == "RGB"
    assert_upright(made)


@pytest.mark.parametrize("most", [None, 30])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_stays_so(kind: str, most: int | None) -> None:
    into = io.BytesIO()
    Image.new("RGBA", (60, 40), (255, 0, 0, 0)).save(into, kind, lossless=True)
    mime, data = images.encoded(into.getvalue(), most)
    made = opened(data)
    assert made.convert("RGBA").getpixel((3, 3))[3] == 0
    assert most is None or mime == "image/png"


def test_a_palette_with_a_transparent_colour_keeps_it_when_it_is_made_smaller() -> None:
    into = io.BytesIO()
    palette = Image.new("RGB", (60, 40), "red").quantize(8)
    palette.save(into, "PNG", transparency=palette.getpixel((3, 3)))
    made = opened(images.encoded(into.getvalue(), 30)[1])
    assert made.size == (30, 20) and made.convert("RGBA").getpixel((3, 3))[3] == 0


def test_of_an_animation_the_first_frame_is_sent() -> None:
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        into = io.BytesIO()
        frames[0].save(into, kind, save_all=True, append_images=frames[1:])
        mime, data = images.encoded(into.getvalue(), None)
        made = opened(data)
        assert not getattr(made, "is_animated", False) and mime == ("image/jpeg" if kind == "WEBP" else "image/png")
        assert made.convert("RGB").getpixel((3, 3))[0] > 240


def test_sixteen_bits_of_grey_become_eight() -> None:
    into = io.BytesIO()
    Image.new("I;16", (60, 40), 0x8000).save(into, "PNG")
    made = opened(images.encoded(into.getvalue(), None)[1])
    assert made.mode == "L" and made.getpixel((3, 3)) == 128


def fault(data: bytes, most: int | None = None) -> str:
    with pytest.raises(FileFault) as raised:
        images.size_of(data)
        images.encoded(data, most)
    return str(raised.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("most", [None, 16])
def test_damage_is_found(kind: str, most: int | None) -> None:
    whole = picture(400, 300, kind)
    assert "is a damaged image (" in fault(whole[: len(whole) // 2], most)
    assert "is a damaged image (" in fault(whole[:20], most)


def test_noise_after_the_beginning_of_an_image_is_damage_whatever_the_decoder_raises() -> None:
    for beginning in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP"):
        for noise in (b"\0" * 200, bytes(range(256)) * 4, b"\xff" * 300):
            assert "is a damaged image (" in fault(beginning + noise) or "pixels" in fault(beginning + noise)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "is HEIC or AVIF, which is not supported; convert it"),
        (b"\0\0\0\x1cftypavif" + b"\0" * 40, "is HEIC or AVIF"),
        (b"%PDF-1.7 ...", "is a PDF document, no image; its text is put in by | pdf_text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image (JPEG, PNG, WebP, GIF, BMP and TIFF can be sent)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "is no image"),
    ],
)
def test_what_is_no_image_that_can_be_sent_is_told(data: bytes, words: str) -> None:
    assert words in fault(data)


def test_an_image_that_would_take_all_memory_is_refused_by_its_header() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    assert fault(bomb) == (
        "has 50,000 × 50,000 pixels, and more than 50 million are too many; make it smaller, or a JPEG (up to 100 million)"
    )


def test_tokens_go_by_the_pixels() -> None:
    assert images.Size(28, 28).tokens == 1
    assert images.Size(1000, 500).within(280).tokens == 10 * 5
    assert images.Size(9000, 9000).tokens == 16_384
