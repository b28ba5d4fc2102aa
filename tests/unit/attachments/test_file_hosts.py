"""From where files may be fetched."""

from __future__ import annotations

import pytest

from batchflex.attachments.file_hosts import FileHosts, address_of, fault_in, fault_of_url, host_of, is_public, shown

PRIVATE = [
    "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
    "224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1",
    "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused_by_name_and_by_address(address: str) -> None:
    found = address_of(address)
    assert found is not None and not is_public(found)
    for hosts in (FileHosts(), FileHosts(["*"]), FileHosts(["*.example.com", "*"])):
        assert "no public address" in (hosts.refusal(address, 80) or "")
        words = hosts.refusal_of_address("files.example.org", address, 80) or ""
        assert f"is at files.example.org, whose address is {address}: no public address" in words


@pytest.mark.parametrize(
    ("address", "is_proposed"), [("10.0.0.1", True), ("169.254.169.254", False), ("fe80::1", False)]
)
def test_nobody_is_told_how_to_allow_where_clouds_have_credentials(address: str, is_proposed: bool) -> None:
    hosts = FileHosts()
    for words in (hosts.refusal(address, 80), hosts.refusal_of_address("metadata.internal", address, 80)):
        assert words is not None and ("file_hosts" in words) == is_proposed


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_asked(address: str) -> None:
    for hosts in (FileHosts(), FileHosts(["*"])):
        assert hosts.refusal(address, 443) is None
        assert hosts.refusal_of_address("files.example.org", address, 443) is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost"])
def test_names_of_this_machine_are_known(host: str) -> None:
    assert "no public address" in (FileHosts().refusal(host, 80) or "")
    assert FileHosts(["localhost", "*.localhost"]).refusal(host, 80) is None


@pytest.mark.parametrize(
    ("listed", "host", "address", "port", "is_asked"),
    [
        ("files.corp", "files.corp", "10.0.0.7", 80, True),
        ("Files.Corp", "files.corp.", "10.0.0.7", 443, True),
        ("files.corp", "other.corp", "10.0.0.7", 80, False),
        ("files.corp", "evil-files.corp", "1.1.1.1", 80, False),
        ("*.corp", "files.corp", "10.0.0.7", 80, True),
        ("*.corp", "a.files.corp", "1.1.1.1", 80, True),
        ("*.corp", "corp", "10.0.0.7", 80, False),
        ("*.corp", "evilcorp", "1.1.1.1", 80, False),
        ("files.corp:8080", "files.corp", "10.0.0.7", 8080, True),
        ("files.corp:8080", "files.corp", "10.0.0.7", 80, False),
        ("10.0.0.0/8", "files.corp", "10.0.0.7", 80, True),
        ("10.0.0.0/8", "files.corp", "192.168.0.1", 80, False),
        ("10.0.0.0/8", "files.example.com", "1.1.1.1", 80, False),
        ("10.0.0.7:8080", "10.0.0.7", "10.0.0.7", 8080, True),
        ("10.0.0.7", "files.corp", "10.0.0.7", 80, True),
        ("[fd00::7]:80", "fd00::7", "fd00::7", 80, True),
        ("127.0.0.1", "files.corp", "::ffff:127.0.0.1", 80, True),
        ("münchen.example", "xn--mnchen-3ya.example", "10.0.0.7", 80, True),
        # A name alone does not lead to the metadata of a cloud; its address does.
        ("files.corp", "files.corp", "169.254.169.254", 80, False),
        ("169.254.169.254", "169.254.169.254", "169.254.169.254", 80, True),
    ],
)
def test_a_list_allows_what_it_names_and_that_alone(
    listed: str, host: str, address: str, port: int, is_asked: bool
) -> None:
    hosts = FileHosts([listed])
    faults = hosts.refusal(host, port), hosts.refusal_of_address(host, address, port)
    assert (faults == (None, None)) is is_asked, faults
    assert is_asked or "input.file_hosts" in str(faults) or "nothing is fetched from there" in str(faults)


def test_an_empty_list_allows_nothing() -> None:
    assert "none of the hosts" in (FileHosts([]).refusal("example.com", 80) or "")
    assert "none of the hosts" in (FileHosts([]).refusal_of_address("example.com", "1.1.1.1", 80) or "")


@pytest.mark.parametrize(
    "entry", ["http://x/", "a b", "", "a/b", "10.0.0.0/99", "x:0", "x:99999", "*.", "**.x", "a@b", "x:http"]
)
def test_what_is_no_host_is_refused(entry: str) -> None:
    assert "is no host: each must be a host such as" in (fault_in([entry]) or "")
    assert fault_in(["files.corp", "*", "*.x.y", "::1", "[::1]:80", "10.0.0.0/8"]) is None


def test_parts_of_urls() -> None:
    assert host_of("https://jo:x@Example.com/a") == ("example.com", 443)
    assert host_of("http://[::1]:8080/a") == ("::1", 8080)
    for url in ("ftp://x/a", "http:///a", "http://x:0/a", "http://x:99999999/a", "http://a b/", "http://x/\n", "x"):
        assert fault_of_url(url) is not None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.com/a.pdf?id=7", "https://example.com/a.pdf?id=7"),
        ("https://jo:secret@example.com/a.pdf", "https://***@example.com/a.pdf"),
        ("https://b.example/a?X-Amz-Security-Token=ab/c%2Bd&x=1", "https://b.example/a?X-Amz-Security-Token=***&x=1"),
        ("https://b.example/a?x=1&X-Goog-Signature=0a1b2c", "https://b.example/a?x=1&X-Goog-Signature=***"),
        ("https://b.example/a?sv=2024&sig=Zm9v%3D", "https://b.example/a?sv=2024&sig=***"),
    ],
)
def test_what_is_shown_of_a_url_has_no_keys(url: str, words: str) -> None:
    assert shown(url) == words
