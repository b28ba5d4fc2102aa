"""Which keys the proxy knows, without a database: a key says itself what it may, as in ``sk.rpm_limit=120.NUMBER``.

``models=m`` allows one model only, ``budget=spent`` has nothing left, ``expired`` and ``unknown`` are refused as the proxy's
database would. Everything is refused by the proxy's own code, or with the error it raises itself.
"""

from __future__ import annotations

import litellm
from fastapi import Request
from litellm.proxy._types import ProxyErrorTypes, ProxyException, UserAPIKeyAuth
from litellm.proxy.auth.auth_checks import can_key_call_model


async def authorise(request: Request, api_key: str) -> UserAPIKeyAuth:
    prefix, *words = api_key.split(".")
    if prefix != "sk" or "unknown" in words:
        raise ProxyException(
            message=f"Authentication Error, Invalid proxy server token passed. Received API Key = {api_key[:4]}...",
            type=ProxyErrorTypes.token_not_found_in_db,
            param="key",
            code=401,
        )
    if "expired" in words:
        raise ProxyException(
            message="Authentication Error - Expired Key.", type=ProxyErrorTypes.expired_key, param="key", code=400
        )
    told = dict(word.split("=") for word in words if "=" in word)
    if told.pop("budget", None):
        raise litellm.BudgetExceededError(current_cost=5.0012, max_budget=5.0)
    models = [told.pop("models")] if "models" in told else []
    key = UserAPIKeyAuth(api_key=api_key, models=models, **{name: int(value) for name, value in told.items()})
    if models and request.method == "POST":
        asked = (await request.json()).get("model")
        await can_key_call_model(asked, None, key, None)
    return key
