"""Sentences that quote others, and the same without what they quote."""

from __future__ import annotations

from batchflex.core.message import Message
from batchflex.protocol import classify, failure_text


def test_the_parts_of_a_sentence_are_put_together_once() -> None:
    said = "here: " + Message("it says no", "HTTP 500") + "; waiting" + Message(" (or not)", "")
    assert said == Message("here: it says no; waiting (or not)", "here: HTTP 500; waiting")
    assert str(said) == said.text
    assert Message.of("plain") == Message("plain", "plain") and Message.of(said) is said


def test_only_the_unquoted_sentence_is_without_the_words_of_a_server() -> None:
    fault = classify.http_fault(401, {}, b'{"error": {"message": "key sk-1 is wrong", "type": "auth"}}', 0.0)
    for message in (
        failure_text.why(fault),
        failure_text.appended(fault),
        failure_text.silence(fault, 3),
        failure_text.advice(fault, key_from="MY_KEY"),
    ):
        assert "sk-1" in message.text and "sk-1" not in message.unquoted and "HTTP 401, auth" in message.unquoted
