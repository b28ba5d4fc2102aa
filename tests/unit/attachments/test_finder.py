"""Which file a row means: below the one folder that files may come from, known by its content."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from batchflex.attachments import (
    FileHosts,
    Finder,
    RemoteFile,
    Use,
    checked,
    content_of,
    described,
    filled,
    finder,
    require,
    without_data,
)
from batchflex.attachments.errors import FileFault
from batchflex.core import Attachment, MissingExtra
from tests.support.files import pdf, picture


def use(path: str, kind: Any = "image", **options: Any) -> Use:
    return Use(kind, path, checked(kind, (), options))


def found(path: object, beside: Path, root: Path | None = None, kind: str = "image", **options: Any) -> Attachment:
    made = Finder(root).find(use(str(path), kind, **options), beside)
    assert isinstance(made, Attachment)
    return made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "a.jpg"
    path.write_bytes(picture(280, 140))
    return path


def test_a_file_is_known_by_its_content_and_the_options_and_not_by_its_place(tmp_path: Path, photo: Path) -> None:
    one = found("photos/a.jpg", tmp_path, max_side=100, detail="low")
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    # Pinned: a token is part of the keys of requests.
    assert one.token == f"<batchflex:image sha256={digest} max_side=100>"
    assert (one.path, one.sha256, one.size, one.tokens) == (str(photo), digest, photo.stat().st_size, 4 * 2)
    other = tmp_path / "elsewhere.jpg"
    photo.rename(other)
    assert found(other, tmp_path, max_side=100).token == one.token
    assert found(other, tmp_path, max_side=101).token != one.token


@pytest.mark.parametrize(
    ("kind", "options", "token"),
    [
        ("file_text", {}, "<batchflex:file_text sha256={}>"),
        (
            "file_text",
            {"max_chars": 9, "encoding": "latin1"},
            "<batchflex:file_text sha256={} encoding=iso8859-1 max_chars=9>",
        ),
        ("pdf_text", {"pages": " 1-3, 5"}, "<batchflex:pdf_text sha256={} pages=1-3,5>"),
        ("pdf_text", {"pages": 2}, "<batchflex:pdf_text sha256={} pages=2>"),
    ],
)
def test_tokens_of_texts(tmp_path: Path, kind: str, options: dict[str, Any], token: str) -> None:
    data = pdf("One", "Two")
    (tmp_path / "a.pdf").write_bytes(data)
    assert found("a.pdf", tmp_path, kind=kind, **options).token == token.format(hashlib.sha256(data).hexdigest())


def test_paths_lead_nowhere_but_below_the_folder(tmp_path: Path, photo: Path) -> None:
    inside, outside = tmp_path / "photos", tmp_path / "secret.jpg"
    outside.write_bytes(picture())
    (inside / "link.jpg").symlink_to(outside)
    (inside / "fine.jpg").symlink_to(photo)
    for path in (outside, "../secret.jpg", "../photos/../secret.jpg", "link.jpg", "/etc/passwd", "/", ".."):
        fault = found(path, inside).fault or ""
        assert (
            f"is outside of {inside}, the folder of the input, and nothing from elsewhere is sent; set input.files"
            in fault
        )
    for path in ("a.jpg", "./a.jpg", photo, "fine.jpg", "../photos/a.jpg"):
        assert found(path, inside).fault is None
    assert found("../secret.jpg", Path("/nowhere"), root=inside).fault == (
        f"'../secret.jpg' is outside of {inside}, and nothing from elsewhere is sent; set input.files to the folder of the files"
    )
    assert found("secret.jpg", inside, root=tmp_path).fault is None
    assert found("link.jpg", tmp_path, root=inside).fault is not None


def test_what_is_hidden_or_has_keys_is_not_sent(tmp_path: Path) -> None:
    for name in (".env", ".git/config", "keys.env", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("KEY=sk-123")
    (tmp_path / "fine.txt").symlink_to(tmp_path / ".env")
    looking = Finder(None, tmp_path / "keys.env")
    for name in (".env", ".git/config", "keys.env", "fine.txt", "sub/../.env"):
        made = looking.find(use(name, "file_text"), tmp_path)
        assert isinstance(made, Attachment) and made.fault == f"{name!r} is hidden or holds keys, and is not sent"
    assert found("a.txt", tmp_path, kind="file_text").fault is None
    assert found("config", tmp_path, root=tmp_path / ".git", kind="file_text").fault is None


def test_what_is_no_file_says_so(tmp_path: Path, photo: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("I am text")
    with (tmp_path / "huge.jpg").open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    for path, words in {
        "gone.jpg": f"'gone.jpg' is not there ({tmp_path}/gone.jpg)",
        "photos": "'photos' is no file",
        "pipe.jpg": "'pipe.jpg' is no file",
        "empty.jpg": "'empty.jpg' is empty",
        "text.jpg": "'text.jpg' is no image (JPEG, PNG, WebP, GIF, BMP and TIFF can be sent)",
        "huge.jpg": "'huge.jpg' is larger than 64 MB, and is not sent",
        "a\0b": "'a\\x00b' is no path",
        "x" * 5000: "is not there",
    }.items():
        fault = found(path, tmp_path).fault or ""
        assert words in fault, fault
        assert found(path, tmp_path).token == found(path, tmp_path, detail="low").token


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, photo: Path) -> None:
    photo.chmod(0)
    assert "cannot be read: Permission denied" in (found(photo, tmp_path).fault or "")


@pytest.mark.parametrize(
    "url", ["https://example.com/a.jpg?x=1", "HTTP://10.0.0.1:8000/a", "data:image/png;base64,AAAA"]
)
def test_a_remote_image_is_left_to_the_server(url: str, tmp_path: Path) -> None:
    assert Finder().find(use(url, detail="high"), tmp_path) == url


@pytest.mark.parametrize(
    ("url", "kind", "options", "words"),
    [
        ("file:///etc/passwd", "image", {}, "is no address that a file can be fetched from (http:// or https://)"),
        ("file:///etc/passwd", "file_text", {}, "is no address that a file can be fetched from"),
        ("s3://bucket/a.jpg", "image", {}, "is no address that a file can be fetched from"),
        ("data:text/html;base64,AAAA", "image", {}, "can be put in if it is an image"),
        ("data:text/plain;base64,AAAA", "file_text", {}, "can be put in if it is an image"),
        (
            "data:image/png;base64,AAAA",
            "image",
            {"max_side": 100},
            "is in its URL itself, so that it cannot be made smaller",
        ),
        ("https:///a.jpg", "image", {}, "is no address"),
        ("https://exa mple.com/a.jpg", "image", {}, "is no address"),
        ("https://[::1/a.jpg", "image", {}, "is no address"),
        ("http://127.0.0.1/a.txt", "file_text", {}, "is at 127.0.0.1: no public address"),
        (
            "http://jo:secret@localhost/a.txt",
            "file_text",
            {},
            "'http://***@localhost/a.txt' is at localhost: no public address",
        ),
    ],
)
def test_what_cannot_be_had_from_elsewhere_is_told(
    url: str, kind: str, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    assert words in (found(url, tmp_path, kind=kind, **options).fault or "")


@pytest.mark.parametrize(
    ("kind", "options", "token", "tokens"),
    [
        ("image", {"max_side": 280}, "<batchflex:image url={} max_side=280>", 100),
        ("pdf_text", {}, "<batchflex:pdf_text url={}>", 8_000),
        ("pdf_text", {"pages": "2-3"}, "<batchflex:pdf_text url={} pages=2-3>", 1_600),
        ("file_text", {"max_chars": 400}, "<batchflex:file_text url={} max_chars=400>", 101),
    ],
)
def test_what_is_fetched_is_known_by_its_url(
    kind: str, options: dict[str, Any], token: str, tokens: int, tmp_path: Path
) -> None:
    url = "https://example.com/a?id=7"
    made = found(url, tmp_path, kind=kind, **options)
    # Pinned, as the tokens of local files are: whether it may be fetched is no part of it.
    assert made.token == token.format(hashlib.sha256(url.encode()).hexdigest())
    assert (made.name, made.url, made.path, made.fault, made.tokens) == (url, url, "", None, tokens)
    refusing = Finder(hosts=FileHosts([])).find(use(url, kind, **options), tmp_path)
    assert isinstance(refusing, Attachment) and refusing.token == made.token
    assert "none of the hosts that input.file_hosts names" in (refusing.fault or "")
    assert "fetched when this is sent" in described(made.token.encode(), [made]).decode()


def test_a_file_is_read_again_only_if_it_has_changed(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    read = finder.read
    monkeypatch.setattr(finder, "read", lambda path: reads.append(path) or read(path))
    looking = Finder()
    first = [looking.find(use("photos/a.jpg", max_side=side), tmp_path) for side in (50, 60)]
    assert len(reads) == 1
    photo.write_bytes(picture(30, 30))
    changed = looking.find(use("photos/a.jpg", max_side=50), tmp_path)
    assert len(reads) == 2 and changed != first[0]


def test_only_what_was_planned_is_sent(tmp_path: Path, photo: Path) -> None:
    planned = found("photos/a.jpg", tmp_path)
    body = b'{"a":"' + planned.token.encode() + b'","b":"<batchflex:image sha256=0>"}'
    assert filled(body, {planned.token: content_of(planned)}).startswith(b'{"a":"data:image/jpeg;base64,/9j/')
    assert filled(body, {planned.token: b"x"}) == b'{"a":"x","b":"<batchflex:image sha256=0>"}'
    photo.write_bytes(picture(30, 30))
    with pytest.raises(FileFault, match=r"'photos/a.jpg' has changed since it was planned; run the same command again"):
        content_of(planned)
    photo.unlink()
    with pytest.raises(FileFault, match=r"'photos/a.jpg' is not there"):
        content_of(planned)


def test_a_text_is_written_as_inside_of_a_json_string(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('He said "no"\n\\ \x01 ü')
    assert content_of(found("a.txt", tmp_path, kind="file_text")) == """He said \\"no\\"\\n\\\\ \\u0001 ü""".encode()


def test_the_encoding_of_a_remote_text_is_what_the_job_says_then_its_mark_then_its_server(tmp_path: Path) -> None:
    one = found("https://example.com/a.txt", tmp_path, kind="file_text")
    cp1252, marked = "Zoë".encode("cp1252"), "Zoë".encode("utf-8-sig")
    assert content_of(one, RemoteFile(cp1252, charset="windows-1252")).decode() == "Zoë"
    assert content_of(one, RemoteFile(marked, charset="windows-1252")).decode() == "Zoë"
    assert content_of(one, RemoteFile("Zoë".encode(), charset="no-such-one")).decode() == "Zoë"
    said = found("https://example.com/a.txt", tmp_path, kind="file_text", encoding="cp1252")
    assert content_of(said, RemoteFile(cp1252, charset="utf-8")).decode() == "Zoë"
    with pytest.raises(FileFault, match=r"'https://example.com/a.txt' is not UTF-8 at byte 2"):
        content_of(one, RemoteFile(cp1252))


def test_people_see_names(tmp_path: Path, photo: Path) -> None:
    one = found("photos/a.jpg", tmp_path, max_side=100, detail="low")
    size = f"{one.size:,} bytes"
    assert (
        described(one.token.encode(), [one]).decode()
        == f"<image photos/a.jpg, max_side = 100, {size}, sha256 {one.sha256[:12]}…>"
    )
    none = found('no"ne\n.jpg', tmp_path)
    assert described(none.token.encode(), [none]) == b"<image none.jpg: cannot be sent>"


def test_images_that_a_server_repeats_are_left_out() -> None:
    data = "AB/+9=" * 30
    assert without_data(f"wrong: data:image/png;base64,{data} here") == "wrong: data:image/png;base64,… here"
    escaped = data.replace("/", "\\/")
    assert without_data(f"data:image\\/jpeg;base64,{escaped}") == "data:image\\/jpeg;base64,…"
    assert without_data("data:image/png;base64,short") == "data:image/png;base64,short"


@pytest.mark.parametrize("kind", ["image", "pdf_text", "file_text"])
def test_what_is_not_installed_is_told(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require([kind])
    for name in ("PIL", "pypdf"):
        monkeypatch.setitem(sys.modules, name, None)
    if kind == "file_text":
        return require([kind])
    with pytest.raises(
        MissingExtra, match=rf"\| {kind}, which needs (Pillow|pypdf); install it with: pip install 'batchflex\[files\]'"
    ):
        require([kind])
