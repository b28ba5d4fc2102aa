"""What one kind of request is: a :class:`Route`. Everything else treats requests of all kinds alike. Pure.

Adding one is a subclass, and its line in :mod:`batchflex.protocol.routes`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from ..core import Answer, Ending, Request, Status, Usage
from .parameters import Parameters

if TYPE_CHECKING:
    from .json_answers import Shapes


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """How an answer came: its status, seconds until it was there and until the first of it (of a stream), and the server's id."""

    http_status: int = 200
    latency_s: float = 0.0
    ttft_s: float | None = None
    request_id: str | None = None


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What an answer makes of its row. ``error_type`` and ``complaint`` say what is wrong with it."""

    status: Status
    parsed: str | None = None
    error_type: str | None = None
    complaint: str | None = None


class Stream(Protocol):
    """A streamed answer that is still coming. ``done`` tells that its end was announced, ``finish_reason`` how it ended,
    ``usage`` what it took so far, ``is_complete`` whether the whole answer is there."""

    done: bool
    finish_reason: str | None

    @property
    def usage(self) -> Usage | None: ...

    @property
    def is_complete(self) -> bool: ...

    def take(self, name: str, data: bytes) -> bool:
        """Take an event; true if it brought something of the answer itself.

        :raises AttemptError: if it carries an error, or cannot be read.
        """
        ...

    def take_alike(self, data: bytes) -> bool:
        """Take an event without a name, if it differs from the last one in nothing but the text that it brings. False, and
        nothing is taken, if that cannot be seen at once: then it is for :meth:`take`."""
        ...

    def whole(self) -> bytes:
        """The body that an unstreamed request would have got.

        :raises AttemptError: if there is none.
        """
        ...


class Route(ABC):
    """A kind of request. One instance serves all threads: it holds no state.

    ``path`` is below the base URL. ``what`` says what is found there, ``field`` is the field of a body that brings what is asked,
    ``limits`` are those of its ``parameters`` that limit an answer's tokens. ``most_rows`` is how many rows may share a request,
    ``streams`` tells whether answers can be streamed.
    """

    path: ClassVar[str]
    what: ClassVar[str]
    field: ClassVar[str]
    parameters: ClassVar[Parameters]
    limits: ClassVar[tuple[str, ...]] = ()
    most_rows: ClassVar[int] = 1
    streams: ClassVar[bool] = False

    # ------------------------------------------------------------------------------------------------------- planning

    @abstractmethod
    def checked(self, content: Any) -> Any:
        """What a row brings in ``field``, as it is sent.

        :raises ValueError: if that is not possible, with a sentence.
        """

    def beginning(self, content: Any) -> Any | None:
        """How this content begins, if other rows are likely to begin with the same; ``None`` if not."""
        return None

    def answer_limit(self, body: Mapping[str, Any]) -> int | None:
        """The most tokens that an answer to this body may have; ``None`` if it sets no limit.

        Which of several parameters a server applies is its own matter: the largest bounds the answer.
        """
        return max((body[name] for name in self.limits if body.get(name) is not None), default=None)

    # -------------------------------------------------------------------------------------------------------- sending

    @abstractmethod
    def body(self, rows: Sequence[Request], *, streamed: bool = False) -> bytes:
        """What is sent for these rows, made when it is sent: one to ``most_rows``, all of one model and with equal parameters.

        :raises AttemptError: if it cannot be made.
        """

    @abstractmethod
    def probe(self, model: str, *, like: bytes | None = None, words: str = "ok", most_tokens: int = 1) -> Request:
        """The smallest request to a model, to see whether it is answered; ``like`` is the body of another that it resembles."""

    # -------------------------------------------------------------------------------------------------------- reading

    @abstractmethod
    def answers(
        self, raw: bytes, rows: Sequence[Request], receipt: Receipt, finish_reasons: Mapping[str, Ending]
    ) -> list[Answer]:
        """The answer to each of ``rows``, in their order, from the body of a 2xx; each with its share of the usage (see
        :func:`shares`). ``finish_reasons`` are words of the endpoint for how an answer ends.

        :raises AttemptError: if not all of them are there.
        """

    @abstractmethod
    def usage_of(self, raw: bytes) -> Usage | None:
        """What a body says that was taken, though it is no answer; ``None`` if it does not say."""

    def stream(self, http_status: int) -> Stream:
        """What the events of a streamed answer are put into."""
        raise NotImplementedError(f"{self.what} are not streamed")

    # -------------------------------------------------------------------------------------------------------- judging

    @abstractmethod
    def verdict(self, answer: Answer, body: bytes, shapes: Shapes, *, allow_empty: bool) -> Verdict:
        """The status of the row that this answers, whose body was this: any but ``failed``."""

    def replied(self, body: dict[str, Any], answer: str, reply: str) -> bool:
        """Have the conversation in ``body`` go on with an answer and what is said to that; false if there is none to go on."""
        return False

    def instructed(self, body: dict[str, Any], words: str) -> None:
        """Add an instruction for the model to ``body``."""
        raise NotImplementedError(f"{self.what} take no instructions")

    # -------------------------------------------------------------------------------------------------------- showing

    @abstractmethod
    def conversation(self, body: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Who says what in a body, for people: a role and a content, which is a text or a list of parts."""

    def documented(self, response: str, row: Mapping[str, Any]) -> tuple[Any, str | None]:
        """A stored answer as OpenAI documents it, with its id. ``row`` has the columns of the results."""
        return msgspec.Raw(response.encode()), None


def shares(usage: Usage, weights: Sequence[float]) -> list[Usage]:
    """The usage of one request, split among its rows in proportion to ``weights``: whole tokens, which add up."""
    if len(weights) == 1:
        return [usage]
    ends = list(itertools.accumulate(weights if any(weights) else [1.0] * len(weights)))
    given = {name: amount for name, amount in msgspec.structs.asdict(usage).items() if amount is not None}

    def upto(end: float) -> dict[str, Any]:
        parts = {name: amount * end / ends[-1] for name, amount in given.items()}
        return {name: part if name == "cost" else round(part) for name, part in parts.items()}

    sums = [upto(0), *map(upto, ends)]
    return [Usage(**{name: after[name] - before[name] for name in given}) for before, after in itertools.pairwise(sums)]
