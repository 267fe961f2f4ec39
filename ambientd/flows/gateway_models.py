"""Which models a gateway's agents may be given: those it lists, as far as the operator allows them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from ambientd.core.rejection import Rejected, reject
from ambientd.ports.gateway import GatewayLink, GatewayRefusedError

# Right after its configuration changed, a gateway has no list of models for about a second.
TRIES = 5
PAUSE_SEC = 0.4
SHOWN_MAX = 20


async def check_model(
    link: GatewayLink, wanted: str, allowed: Sequence[str], pause: Callable[[float], Awaitable[None]]
) -> str | Rejected:
    """The model as `provider/id`, or why it may not be used; raises what the link raises.

    The gateway itself takes any id of a provider that it knows, and fails when it is used.
    """
    listed = await _listed(link, pause)
    named = listed if "/" in wanted else [name for name in listed if name.partition("/")[2] == wanted]
    model = wanted if "/" in wanted else (named[0] if len(named) == 1 else None)
    permitted = [name for name in listed if not allowed or _is_among(name, allowed)]
    if model in permitted:
        return model
    shown = ", ".join(permitted[:SHOWN_MAX]) or "none"
    why = "the gateway has no such model" if model not in listed else "is not on this node's list"
    return reject("VALIDATION_ERROR", "the model cannot be used", ("model", "not_allowed", f"{why}: {shown}"))


def _is_among(name: str, allowed: Sequence[str]) -> bool:
    return name in allowed or name.partition("/")[2] in allowed


async def _listed(link: GatewayLink, pause: Callable[[float], Awaitable[None]]) -> list[str]:
    for attempt in range(1, TRIES + 1):
        try:
            return _names(await link.call("models.list", {"view": "configured"}))
        except GatewayRefusedError as error:
            not_ready = error.code == "UNAVAILABLE" and "not ready" in error.message
            if not not_ready or attempt == TRIES:
                raise
        await pause(PAUSE_SEC)
    return []


def _names(payload: object) -> list[str]:
    raw = payload.get("models") if isinstance(payload, Mapping) else None
    names = []
    for item in raw if isinstance(raw, list) else ():
        name = item.get("id") if isinstance(item, Mapping) else None
        provider = item.get("provider") if isinstance(item, Mapping) else None
        if isinstance(name, str) and name:
            whole = isinstance(provider, str) and provider and not name.startswith(f"{provider}/")
            names.append(f"{provider}/{name}" if whole else name)
    return names
