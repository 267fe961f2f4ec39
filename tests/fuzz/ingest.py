"""Mutated ingest payloads against the route and a real database.

    python tests/fuzz/ingest.py [--count 100000] [--seed N]

Each payload is sent twice. Whatever it is: the answer is 200, 400, 409 or 422; a refusal is the same both
times and leaves the database as it was; what was taken is a replay the second time. A short form runs in
the suite (`tests/api/test_ingest_fuzz.py`). A failure prints the seed and the payload.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ambientd.core.contracts.names import EVENT, SESSION, USAGE
from ambientd.core.contracts.words import EVENT_WORDS, STATUS_WORDS
from ambientd.wire.routes import INGEST
from tests.api.ingestkit import DATA, Ingest, ingesting

EXPECTED = {200, 400, 409, 422}
# The whole database is compared over some refusals in a row, so often.
FULL_LOOK_EVERY = 500
FULL_LOOKS = 10
NAMES = sorted(
    {spelling for table in (SESSION, USAGE, EVENT) for group in table.values() for spelling in group}
    | {"session", "run", "events", "timeline", "usage", "payload", "source", "envelope_version"}
    | {"idempotency_key", "x", "", "\u0000", "__proto__", "é", "a" * 300}
)
WORDS = sorted({*STATUS_WORDS, *EVENT_WORDS})
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30,
    0.0, -0.0, 1.5, 1e-300, 1e300, "", " ", "\u0000", "a\u0000b", "\n", "\u202e", "\ufeff", "é", "🦊",
    "x" * 257, "x" * 70_000, "NaN", "null", "yesterday", "2026-02-18", "2026-02-18T10:00:00",
    "2026-02-18T10:00:00Z", "2026-02-18T10:00:00.123456789+23:59", "2026-02-30T00:00:00Z",
    "0000-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "1970-01-01T00:00:00Z", "'; DROP TABLE x; --", "%s",
    [], {}, [[]], [{}], {"": {}}, [None] * 50, {"a": {"b": {"c": [1, 2, {"d": None}]}}},
    "v1", "v2", "V1", "v3", "ses-1", "s-1", "peter", "gateway",
]  # fmt: skip
DAMAGE = (b"", b"\xff", b"\x00", b'"', b"{", b"}", b",", b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"9" * 400)


def corpus() -> list[Any]:
    """Payloads that are taken as they are."""
    paths = sorted((*(DATA / "valid").glob("*.json"), *(DATA / "partial").glob("*.json")))
    return [json.loads(path.read_text())["envelope"] for path in paths]


class Mutator:
    """Payloads from a seed: the same seed, the same payloads."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._corpus = [json.dumps(item) for item in corpus()]

    def payload(self) -> bytes:
        """The bytes of one request."""
        chance = self.chance
        document = json.loads(chance.choice(self._corpus))
        self._rename_session(document)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 6))):
            document = self._mutate(document)
        raw = json.dumps(document, ensure_ascii=chance.random() < 0.8).encode("utf-8", "surrogatepass")
        while chance.random() < 0.12:
            raw = self._scratch(raw)
        return raw

    def _rename_session(self, document: Any) -> None:
        """A few hundred ids, so that many payloads meet a session that is there."""
        payload = document["payload"]
        session = payload.get("session") or payload["run"]
        name = f"ses-{self.chance.randrange(300)}"
        session["sessionId" if "sessionId" in session else "id"] = name
        for event in payload.get("events", payload.get("timeline", ())):
            event.pop("sessionId", None)
            for key in ("eventId", "event_id"):
                if key in event:
                    event[key] = f"{name}-{event[key]}"
        if "idempotency_key" in document:
            document["idempotency_key"] = f"k-{self.chance.randrange(300)}"

    def _mutate(self, document: Any) -> Any:
        places = list(_places(document))
        if not places:
            return self._value()
        holder, key = self.chance.choice(places)
        change: Callable[[Any, Any], None] = self.chance.choice(
            (self._set, self._set, self._drop, self._add, self._rename, self._word, self._wrap)
        )
        change(holder, key)
        return document if self.chance.random() > 0.01 else self._value()

    def _value(self) -> Any:
        return json.loads(json.dumps(self.chance.choice(NASTY)))

    def _set(self, holder: Any, key: Any) -> None:
        holder[key] = self._value()

    def _drop(self, holder: Any, key: Any) -> None:
        del holder[key]

    def _add(self, holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[self.chance.choice(NAMES)] = self._value()
        else:
            holder.insert(self.chance.randrange(len(holder) + 1), json.loads(json.dumps(holder[key])))

    def _rename(self, holder: Any, key: Any) -> None:
        if isinstance(holder, dict):
            holder[self.chance.choice(NAMES)] = holder.pop(key)

    def _word(self, holder: Any, key: Any) -> None:
        holder[key] = self.chance.choice(WORDS)

    def _wrap(self, holder: Any, key: Any) -> None:
        value = holder[key]
        for _ in range(self.chance.choice((1, 2, 40, 100))):
            value = {"a": value} if self.chance.random() < 0.5 else [value]
        holder[key] = value

    def _scratch(self, raw: bytes) -> bytes:
        """Damage below the level of JSON."""
        chance, at = self.chance, self.chance.randrange(len(raw) + 1)
        damage: bytes = chance.choice(
            (
                b"",
                b"\xff",
                b"\x00",
                b'"',
                b"{",
                b"}",
                b",",
                b"\\ud800",
                b"\\u0000",
                b"NaN",
                b"1e999",
                b"9" * 400,
            )
        )
        end = at + chance.choice((0, 0, 1, 3, len(raw)))
        return raw[:at] + damage + raw[end:]


def _places(value: Any) -> Any:
    """Every place in a document: its holder and its key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield value, key
            yield from _places(item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index
            yield from _places(item)


async def fuzz(folder: Path, count: int, seed: int, tell: Callable[[str], None]) -> Counter[str]:
    """Sends `count` payloads; returns how often each outcome came. Raises AssertionError with the payload."""
    outcomes: Counter[str] = Counter()
    mutator = Mutator(seed)
    async with ingesting(folder) as ingest:
        state = ingest.state()
        for number in range(count):
            raw = mutator.payload()
            try:
                outcome, state = await _one(ingest, raw, number, state)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, payload {number}: {raw[:4000]!r}: {error}") from error
            outcomes[outcome] += 1
            if number % 10_000 == 9_999:
                tell(f"{number + 1} payloads: {dict(sorted(outcomes.items()))}")
    return outcomes


async def _one(ingest: Ingest, raw: bytes, number: int, state: str) -> tuple[str, str]:
    before = _changes(ingest)
    first = await ingest.ask("POST", INGEST, raw or b" ")
    assert first.status in EXPECTED, first
    written = _changes(ingest) != before
    after = _changes(ingest)
    second = await ingest.ask("POST", INGEST, raw or b" ")
    assert _changes(ingest) == after, "the same again has written"
    if first.status == 200:
        assert second.status == 200, second
        answer = json.loads(second.body)
        assert answer["idempotent_replay"] is True, answer
        assert json.loads(first.body) | {"idempotent_replay": True} == answer
        return "taken" if written else "replayed", ""
    assert not written, f"a refusal has written: {first}"
    assert (second.status, second.body) == (first.status, first.body)
    if number % FULL_LOOK_EVERY < FULL_LOOKS:
        found = ingest.state()
        assert state in ("", found)
        state = found
    return json.loads(first.body)["error"]["code"], state


def _changes(ingest: Ingest) -> int:
    """Rows that the writing connection has touched so far, those it took back included."""
    writer = ingest.real_store._writer
    assert writer is not None
    return writer._connection.total_changes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=20261121)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="fuzz-") as folder:
        found = trio.run(fuzz, Path(folder), arguments.count, arguments.seed, print)
    print(f"{arguments.count} payloads, each twice: {dict(sorted(found.items()))}")


if __name__ == "__main__":
    main()
