"""Recorded gateways for tests: plays a recording's rows and events into a view."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ambientd.core.gateway_view.rows import parse_page
from ambientd.core.gateway_view.view import GatewayView

DATA = Path(__file__).parent / "data" / "gateway_rows"


def recording(name: str) -> dict[str, Any]:
    """One recording."""
    document: dict[str, Any] = json.loads((DATA / f"{name}.json").read_bytes())
    return document


def play(view: GatewayView, name: str, *, own_kills: bool = False) -> Iterator[int]:
    """Feeds a view step by step; gives the gateway's time after each.

    With `own_kills`, aborts of the recording client are entered into the view's log of kills.
    """
    now = 0
    for step in recording(name)["steps"]:
        if "listed" in step:
            now = max(now, step["ts"])
            page = parse_page({"sessions": step["listed"], "ts": step["ts"]})
            assert page is not None
            for row in page.rows:
                view.put_listed(row, now)
        elif "event" in step:
            now = max(now, step["payload"].get("ts", now))
            view.hear(step["event"], step["payload"], now)
        elif own_kills:
            owner = next((row for row in view.sessions_of("tony") if row.run_id == step["aborted"]), None)
            view.add_kill(owner.session_id if owner else "", step["aborted"], now)
        yield now


def words(name: str, *, own_kills: bool = False, agent: str = "tony") -> list[tuple[str, str]]:
    """Status and reason of an agent through a recording, without repeats."""
    view, said = GatewayView(), [("", "")]
    for now in play(view, name, own_kills=own_kills):
        verdict = view.verdict(agent, now)
        pair = (verdict.status.value, verdict.reason)
        if pair != said[-1]:
            said.append(pair)
    return said[1:]
