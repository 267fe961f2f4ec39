"""Files of the earlier generation's JSON store, taken apart into pieces that the daemon takes in one go."""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from ambientctl.trouble import CommandError
from ambientd.wire import exits
from ambientd.wire.routes import BODY_MAX_BYTES

USUAL_PLACES = ("v3-intelligence.json", os.path.join("data", "v3-intelligence.json"))
COLLECTIONS = ("ledger", "events", "usage")
BATCH_RECORDS = 200
# Of one body: half of what the daemon takes, so that it is far from the limit however long the keys are.
BATCH_BYTES = BODY_MAX_BYTES // 2

Document = dict[str, Any]


class Source(NamedTuple):
    """One file as it was read. `others` counts what is in it besides the three lists that are taken."""

    path: str
    size: int
    sha256: str
    rows: dict[str, int]
    document: Document


class Record(NamedTuple):
    """A row of `ledger` with what belongs to it. `row` counts from 1 in its file's list."""

    path: str
    row: int
    session_id: str
    body: Document


class Stray(NamedTuple):
    """A row that belongs to no session of its file."""

    path: str
    collection: str
    row: int
    session_id: str


def find_files(paths: tuple[str, ...]) -> list[str]:
    """The files meant: of a folder the store's usual file, else every *.json in it. Raises CommandError."""
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        usual = [os.path.join(path, name) for name in USUAL_PLACES]
        files = [name for name in usual if os.path.isfile(name)][:1]
        if not files:
            files = sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(".json"))
        if not files:
            raise CommandError(exits.FAILED, f"Error: {path} holds no *.json.")
        found += files
    return found


def read_source(path: str) -> Source:
    """One file. Raises CommandError when it cannot be read or is no such store."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CommandError(exits.FAILED, f"Error: {path} cannot be read: {reason}.") from None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CommandError(exits.FAILED, f"Error: {path} is not JSON: {error}.") from None
    if not isinstance(document, dict) or not any(isinstance(document.get(n), list) for n in COLLECTIONS):
        lists = ", ".join(COLLECTIONS)
        raise CommandError(
            exits.FAILED, f"Error: {path} is no store of the earlier generation: it has none of {lists}."
        )
    rows = {name: len(value) for name, value in document.items() if isinstance(value, list)}
    return Source(path, len(raw), hashlib.sha256(raw).hexdigest(), rows, document)


def is_unchanged(source: Source) -> bool:
    """Whether the file is still what was read."""
    try:
        with open(source.path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest() == source.sha256
    except OSError:
        return False


def take_apart(source: Source) -> tuple[list[Record], list[Stray]]:
    """The records of a file in order, and the rows that belong to none."""
    records: list[Record] = []
    owners: dict[str, Document] = {}
    for row, item in enumerate(_rows(source, "ledger"), 1):
        body: Document = {"ledger": item, "usage": None, "events": []}
        session_id = _session_id(item)
        records.append(Record(source.path, row, session_id, body))
        if session_id:
            owners.setdefault(session_id, body)
    strays = []
    for name in ("usage", "events"):
        for row, item in enumerate(_rows(source, name), 1):
            owner = owners.get(_session_id(item))
            if owner is None:
                strays.append(Stray(source.path, name, row, _session_id(item)))
            elif name == "usage":
                owner["usage"] = item
            else:
                owner["events"].append(item)
    return records, strays


def _rows(source: Source, name: str) -> list[Any]:
    value = source.document.get(name)
    return value if isinstance(value, list) else []


def _session_id(item: object) -> str:
    value = item.get("sessionId") if isinstance(item, dict) else None
    return value if isinstance(value, str) else ""


class Batch(NamedTuple):
    """What is sent at once: a record's place in the list of all, and its body or a part of it."""

    places: list[int]
    bodies: list[Document]


def batches(records: list[Record]) -> Iterator[Batch]:
    """Everything in pieces that fit one request; a record with many events is sent in several parts.

    Only a single event or row that is too large by itself makes a piece that does not fit.
    """
    batch, size = Batch([], []), 0
    for place, record in enumerate(records):
        for part in _parts(record.body):
            length = len(json.dumps(part))
            if batch.bodies and (size + length > BATCH_BYTES or len(batch.bodies) >= BATCH_RECORDS):
                yield batch
                batch, size = Batch([], []), 0
            batch.places.append(place)
            batch.bodies.append(part)
            size += length
    if batch.bodies:
        yield batch


def _parts(body: Document) -> Iterator[Document]:
    head = {"ledger": body["ledger"], "usage": body["usage"]}
    events: list[Any] = []
    size = base = len(json.dumps(head))
    for event in body["events"]:
        length = len(json.dumps(event))
        if events and size + length > BATCH_BYTES:
            yield {**head, "events": events}
            events, size = [], base
        events.append(event)
        size += length
    yield {**head, "events": events}
