"""Sentences for people that quote others. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """A sentence. ``unquoted`` is the same without what a server said or what stands in a row: for who may not show that.

    Made once, of its parts: ``"it does not answer: " + Message(words_of_the_server, "HTTP 500") + "; waiting for it"``.
    """

    text: str
    unquoted: str

    @classmethod
    def of(cls, words: Message | str) -> Message:
        """A sentence that may quote nobody."""
        return words if isinstance(words, Message) else cls(words, words)

    def __add__(self, words: Message | str) -> Message:
        more = Message.of(words)
        return Message(self.text + more.text, self.unquoted + more.unquoted)

    def __radd__(self, words: str) -> Message:
        return Message(words + self.text, words + self.unquoted)

    def __str__(self) -> str:
        return self.text
