"""Reading a session's events as they come, also over a restart of the daemon, and telling them to people."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from ambientctl import client as wire
from ambientctl import term
from ambientctl.client import Client, Document
from ambientctl.clock import monotonic, sleep
from ambientctl.output import Screen
from ambientctl.text import clock_time, inert, size
from ambientctl.trouble import CommandError
from ambientd.wire import exits, routes

PAGE_EVENTS = 500
# Sessions outlive a restart of the daemon, so following waits this long for it to come back.
AWAY_MAX_SEC = 60.0
AWAY_PAUSE_SEC = 0.5
# A server that does not hold a long poll open must not turn following into a busy loop.
EMPTY_PAUSE_SEC = 0.2

_NOT_NOW = ("NOT_READY", "STORAGE_UNAVAILABLE", "TOO_MANY_REQUESTS")
_SHOWN_MAX = 2000


class Page(NamedTuple):
    """Some events in order; `ended` when no more will come."""

    session_id: str
    status: str
    ended: bool
    events: list[Document]


def events_page(client: Client, session_id: str, after: int, wait: float) -> Page:
    """The events after a sequence number; holds on up to `wait` seconds for the first one."""
    seconds = max(0, min(int(wait), routes.LONG_POLL_MAX_SEC))
    query = {"after": str(after), "limit": str(PAGE_EVENTS), "wait": str(seconds)}
    document = client.get(f"{routes.LEDGER}/{wire.segment(session_id)}/events", query, wait=seconds)
    found = Page(
        wire.text(document, "sessionId"),
        wire.text(document, "status"),
        document.get("ended") is True,
        wire.rows(document, "events"),
    )
    if not found.session_id or not found.status:
        raise wire.not_understood("the page of events names no session")
    return found


def stored_pages(client: Client, session_id: str, after: int) -> Iterator[Page]:
    """What is there now, page by page."""
    while True:
        page = events_page(client, session_id, after, 0)
        yield page
        following = last_seq(page, after)
        if len(page.events) < PAGE_EVENTS or following <= after:
            return
        session_id, after = page.session_id, following


def live_pages(client: Client, session_id: str, after: int) -> Iterator[Page]:
    """Pages until the session's last event. Waits for a daemon that goes away in the middle."""
    page = events_page(client, session_id, after, 0)
    session_id = page.session_id
    while True:
        yield page
        if page.ended:
            return
        following = last_seq(page, after)
        if following <= after and page.events:
            raise wire.not_understood("the same events come again")
        after = following
        asked_at = monotonic()
        page = _patient_page(client, session_id, after)
        if not page.events and not page.ended and monotonic() - asked_at < EMPTY_PAUSE_SEC:
            sleep(EMPTY_PAUSE_SEC)


def last_seq(page: Page, after: int) -> int:
    """The highest sequence number seen so far."""
    return max([after, *(wire.whole(event, "seq") for event in page.events)])


def _patient_page(client: Client, session_id: str, after: int) -> Page:
    until: float | None = None
    while True:
        try:
            return events_page(client, session_id, after, routes.LONG_POLL_MAX_SEC)
        except CommandError as error:
            if error.exit != exits.UNREACHABLE and error.code not in _NOT_NOW:
                raise
            if until is None:
                until = monotonic() + AWAY_MAX_SEC
                note("The daemon is away; the session goes on without it. Waiting for it to come back.")
            if monotonic() >= until:
                raise
        sleep(AWAY_PAUSE_SEC)


def note(line: str) -> None:
    """A remark beside the output, dim on a terminal."""
    dim = term.is_terminal(2) and term.has_color("auto")
    term.complain(f"\x1b[2m{line}\x1b[0m" if dim else line)


# --- telling


class Teller:
    """Prints events as the agent meant them: its output to standard output and standard error, and what the
    node has to say as dim lines on standard error. Nothing an agent writes can steer the terminal.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._open = False  # the last line on standard output has not ended

    def tell(self, page: Page) -> None:
        """Prints the events of a page, in order."""
        for event in page.events:
            payload = wire.part(event, "payload")
            if wire.text(event, "eventType") == "message":
                self._message(payload)
            else:
                self.close()
                line = describe(event)
                note(line.encode("ascii", "replace").decode() if self._screen.ascii else line)

    def close(self) -> None:
        """Ends a line that was left open."""
        if self._open:
            term.put(b"\n")
            self._open = False

    def _message(self, payload: Document) -> None:
        text = "\n".join(inert(line, spaces=False) for line in message_text(payload).split("\n"))
        if wire.text(payload, "stream") in ("err", "stderr"):
            self.close()
            term.complain(text)
            return
        self._open = payload.get("partial") is True
        term.write(text if self._open else text + "\n", ascii_only=self._screen.ascii)


def message_text(payload: Document) -> str:
    """What a message says; one without a text is shown as its JSON."""
    for key in ("text", "content", "message"):
        value = payload.get(key)
        if isinstance(value, str):
            return value
    return json.dumps(payload, ensure_ascii=False)


def describe(event: Document) -> str:
    """One line for an event that is not the agent's plain output."""
    kind, payload = wire.text(event, "eventType"), wire.part(event, "payload")
    if kind == "message":
        return inert(message_text(payload))
    if kind == "state_transition":
        return _transition(payload)
    if kind == "artifact":
        return inert(f"artifact {wire.text(payload, 'name')} ({size(wire.number(payload, 'bytes') or 0)})")
    if kind == "tool_call":
        name = wire.text(payload, "name") or wire.text(payload, "tool")
        return _shortened(f"tool {name} " if name else "tool ", payload, said=("type", "name", "tool"))
    if kind == "error":
        text = wire.text(payload, "message") or wire.text(payload, "text")
        return inert(f"error: {text}") if text else _shortened("error: ", payload)
    return _shortened(f"{kind} ", payload, said=("type",))


def _shortened(lead: str, payload: Document, *, said: tuple[str, ...] = ()) -> str:
    """The rest of a payload as `key=value`; what the lead has said already is left out."""
    rest = {key: value for key, value in payload.items() if key not in said}
    pairs = (f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in rest.items())
    text = inert(lead + " ".join(pairs))
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + " ..."


def _transition(payload: Document) -> str:
    after = wire.text(payload, "to")
    facts = [
        f"{key.replace('_', ' ')} {value}"
        for key, value in payload.items()
        if key not in ("from", "to", "proof") and isinstance(value, (str, int))
    ]
    return inert(f"session {after}" + (f" ({', '.join(facts)})" if facts else ""))


def timed_line(event: Document, screen: Screen) -> str:
    """One event on one line with its time and kind, for `sessions events`."""
    payload, kind = wire.part(event, "payload"), wire.text(event, "eventType")
    stream = wire.text(payload, "stream")
    word = {"out": "out", "stdout": "out", "err": "err", "stderr": "err"}.get(stream, "")
    names = {"state_transition": "state", "tool_call": "tool"}
    label = word if kind == "message" and word else names.get(kind, kind)
    at = clock_time(wire.text(event, "eventTs"), screen.now)
    return f"{at}  {inert(label):<8}  {describe(event)}"
