"""The routes there are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .chat_route import CHAT
from .route import Route

ROUTES: tuple[Route, ...] = (CHAT,)


def conversation(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Who says what in a body of any route; nothing if it is of none."""
    return next((route.conversation(body) for route in ROUTES if route.field in body), [])
