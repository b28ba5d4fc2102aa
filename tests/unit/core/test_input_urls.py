"""What an input that is a URL is called, and what of it may be shown."""

from __future__ import annotations

import pytest

from batchflex.core import is_url, url_name, without_signature


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "https://b.s3.amazonaws.com/r.jsonl?X-Amz-Algorithm=A&X-Amz-Signature=abc123",
            "https://b.s3.amazonaws.com/r.jsonl",
        ),
        (
            "https://a.blob.core.windows.net/c/r.csv?sv=2024-01-01&sig=abc%2B1",
            "https://a.blob.core.windows.net/c/r.csv",
        ),
        ("https://storage.googleapis.com/b/r?x-goog-signature=1", "https://storage.googleapis.com/b/r"),
        ("https://d.cloudfront.net/r?Expires=1&Policy=x&Key-Pair-Id=y", "https://d.cloudfront.net/r"),
        ("https://h/r.jsonl?access_token=abc", "https://h/r.jsonl"),
        ("https://h/r.jsonl?apikey=abc", "https://h/r.jsonl"),
        ("https://ada:secret@h/r.jsonl", "https://h/r.jsonl"),
        ("https://h/export?format=csv&id=7", "https://h/export?format=csv&id=7"),
        ("https://h/r.jsonl", "https://h/r.jsonl"),
        ("s3://key:secret@b/r.jsonl", "s3://b/r.jsonl"),
        ("s3://b/what?sig=1.jsonl", "s3://b/what?sig=1.jsonl"),  # the name of an object
        ("abfss://c@account.dfs.core.windows.net/r.csv", "abfss://c@account.dfs.core.windows.net/r.csv"),
        ("data/odd?sig=1.jsonl", "data/odd?sig=1.jsonl"),
    ],
)
def test_what_signs_a_url_is_cut_off(url: str, shown: str) -> None:
    assert without_signature(url) == shown
    assert without_signature(shown) == shown


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://b/data/rows.jsonl.gz", "rows.jsonl.gz"),
        ("s3://b/data/", "data"),
        ("s3://b/odd #1?.csv", "odd #1?.csv"),
        ("https://h/a/b%20c.csv?x=y.z#part", "b c.csv"),
    ],
)
def test_the_name_of_a_url(url: str, name: str) -> None:
    assert is_url(url) and url_name(url).name == name


def test_paths_of_this_machine_are_no_urls() -> None:
    assert not any(map(is_url, ("rows.jsonl", "/a/b", "c:/x", "s3:/b/x", "~/a://b")))
