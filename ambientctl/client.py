"""Asks the daemon and gets documents; every refusal and every silence becomes a CommandError."""

import json
from collections.abc import Mapping
from typing import Any

from ambientctl.status import Options
from ambientctl.transport import Answer, AnswerError, AwayError, Sink, download, exchange
from ambientctl.trouble import CommandError, explain, refusal
from ambientd import __version__
from ambientd.wire import exits

Document = dict[str, Any]

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Client:
    """One daemon. Every call is one connection, and raises CommandError when it brings no success."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def get(self, path: str, query: Mapping[str, str] | None = None, *, wait: float = 0.0) -> Document:
        """The document at `path`; `wait` is how many seconds longer than usual the answer may take."""
        pairs = [f"{name}={quote(value)}" for name, value in (query or {}).items() if value]
        target = f"{path}?{'&'.join(pairs)}" if pairs else path
        try:
            answer = self._exchange(target, None, wait)
        except (AwayError, AnswerError) as error:
            raise explain(error, self._options) from None
        return _document(answer)

    def get_bytes(self, path: str, query: Mapping[str, str]) -> bytes:
        """The content at `path`, which is no document."""
        target = f"{path}?{'&'.join(f'{name}={quote(value)}' for name, value in query.items())}"
        try:
            answer = self._exchange(target, None, 0.0)
        except (AwayError, AnswerError) as error:
            raise explain(error, self._options) from None
        if answer.status != 200:
            raise refusal(answer)
        return answer.body

    def download(self, path: str, query: Mapping[str, str], sink: Sink, *, wait: float = 0.0) -> None:
        """Hands the content at `path` to `sink`, however much it is; `wait` as with `get`, for each piece."""
        pairs = [f"{name}={quote(value)}" for name, value in query.items() if value]
        options = self._options
        try:
            answer = download(
                options.sockets,
                f"{path}?{'&'.join(pairs)}" if pairs else path,
                sink,
                accept="*/*",
                limit=options.limit + wait,
                version=__version__,
            )
        except (AwayError, AnswerError) as error:
            raise explain(error, self._options) from None
        if answer.status != 200:
            raise refusal(answer)

    def post(self, path: str, document: Document, *, wait: float = 0.0) -> Document:
        """What the daemon answered to an order, `wait` as with `get`. Exit 7 when nobody knows whether it
        took effect."""
        return self._order("POST", path, document, wait)

    def order(self, path: str, *, wait: float = 0.0) -> Document:
        """As `post`, where the path alone says what is to be done."""
        return self._order("POST", path, None, wait)

    def patch(self, path: str, document: Document) -> Document:
        """As `post`, for a change of what is at `path`."""
        return self._order("PATCH", path, document, 0.0)

    def delete(self, path: str) -> Document:
        """As `post`, for its removal."""
        return self._order("DELETE", path, None, 0.0)

    def _order(self, method: str, path: str, document: Document | None, wait: float) -> Document:
        body = None if document is None else json.dumps(document).encode()
        try:
            answer = self._exchange(path, body, wait, method)
        except AwayError as error:
            raise explain(error, self._options) from None
        except AnswerError as error:
            if not error.sent:
                raise explain(error, self._options) from None
            raise CommandError(
                exits.NOT_CONFIRMED,
                f"Error: the order was sent, but not confirmed: {error.reason}.",
                "  It may have taken effect. See: ambientctl sessions",
            ) from None
        return _document(answer)

    def _exchange(self, target: str, body: bytes | None, wait: float, method: str = "GET") -> Answer:
        options = self._options
        return exchange(
            options.sockets,
            target,
            accept="application/json",
            limit=options.limit + wait,
            body=body,
            version=__version__,
            method=method,
        )


def _document(answer: Answer) -> Document:
    if answer.status not in (200, 201):
        raise refusal(answer)
    document = load(answer.body)
    if document is None:
        raise not_understood("it is no JSON document")
    return document


def load(raw: bytes) -> Document | None:
    """The JSON object in `raw`; None when there is none."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def not_understood(what: str) -> CommandError:
    """The daemon's answer lacks what this version relies on."""
    return CommandError(
        exits.FAILED,
        f"Error: the daemon's answer cannot be understood: {what}.",
        "  try      ambientctl version; is it the same as the daemon's? (ambientctl status --json)",
    )


def quote(text: str) -> str:
    """Percent-encoded UTF-8, safe in a path segment and in a query."""
    data = text.encode("utf-8", "replace")
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)


def segment(fragment: str) -> str:
    """An id, or a part of one, as a segment of a path. Raises CommandError for an empty one, which would name
    the list and not a thing in it: a script's variable that was never set."""
    if not fragment:
        raise CommandError(exits.NOT_FOUND, "Error: the ID is empty.")
    return quote(fragment)


# --- reading documents: what is absent or of another type reads as empty, so that nothing here can trip


def text(document: Document, key: str) -> str:
    """The string at `key`, else the empty one."""
    value = document.get(key)
    return value if isinstance(value, str) else ""


def number(document: Document, key: str) -> float | None:
    """The number at `key`, else None."""
    value = document.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def whole(document: Document, key: str) -> int:
    """The integer at `key`, else 0."""
    value = document.get(key)
    return value if isinstance(value, int) else 0


def part(document: Document, key: str) -> Document:
    """The object at `key`, else an empty one."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def rows(document: Document, key: str) -> list[Document]:
    """The objects in the list at `key`."""
    value = document.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
