"""An exported chain: one JSON object a line, and its check without the node.

The first line says what follows: `{"type":"chain", …}` with the place behind which the records begin. Then
statements of keys, records and checkpoints in the order of the chain, and a last line `{"type":"end", …}`, so
that a file that was cut off is noticed.
"""

from collections.abc import Collection

import msgspec

from ambientd.core.audit import BEGINNING, Break, Place, StoredRecord, Walk
from ambientd.core.auditcheck import judge
from ambientd.core.ed25519 import show_key
from ambientd.core.identity import CHAIN_MAX, parse_rollover, vouched
from ambientd.wire.audit_routes import SCHEMA_AUDIT_EXPORT

FORMAT = SCHEMA_AUDIT_EXPORT
LINE_MAX = 4 * 1024 * 1024
# An export may be anybody's file, and these are remembered to its end; keys are followed no farther anyway.
ROLLOVERS_MAX = CHAIN_MAX
SIGNERS_MAX = ROLLOVERS_MAX + 1
STATEMENT_MAX = 4_096  # characters; a statement has some hundreds
_encoder = msgspec.json.Encoder()


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Any line; which keys it has depends on its `type`."""

    type: str
    format: str = ""
    origin: str = ""
    exported_at: str = ""
    pruned_seq: int = 0
    pruned_hash: str = ""
    seq: int = 0
    kind: str = ""
    at: str = ""
    actor: str = ""
    subject: str = ""
    detail: msgspec.Raw = msgspec.Raw(b"")
    prev_hash: str = ""
    hash: str = ""
    note: str = ""
    statement: str = ""
    head_seq: int = 0


def chain_line(*, origin: str, pruned: Place, at: str) -> bytes:
    """The first line."""
    return _line(
        {
            "type": "chain",
            "format": FORMAT,
            "origin": origin,
            "exported_at": at,
            "pruned_seq": pruned.seq,
            "pruned_hash": pruned.hash,
        }
    )


def rollover_line(statement: str) -> bytes:
    """A statement that one key followed another."""
    return _line({"type": "rollover", "statement": statement})


def record_line(record: StoredRecord) -> bytes:
    """A record, with its detail byte by byte as it is stored; one that is damaged as far as it can be."""
    return _line(
        {
            "type": "record",
            "seq": record.seq,
            "kind": _plain(record.kind),
            "at": _plain(record.at),
            "actor": _plain(record.actor),
            "subject": _plain(record.subject),
            "detail": msgspec.Raw(record.detail) if _is_json(record.detail) else _damaged(record.detail),
            "prev_hash": _plain(record.prev_hash),
            "hash": _plain(record.hash),
        }
    )


def checkpoint_line(seq: int, note: str) -> bytes:
    """A signed head."""
    return _line({"type": "checkpoint", "seq": seq, "note": _plain(note)})


def end_line(head: Place) -> bytes:
    """The last line."""
    return _line({"type": "end", "head_seq": head.seq, "hash": head.hash})


def _line(value: dict[str, object]) -> bytes:
    return _encoder.encode(value) + b"\n"


def _plain(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _damaged(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _is_json(raw: bytes) -> bool:
    """Only what a reader can read is written as it is: a line that is none would hide those after it."""
    try:
        msgspec.json.decode(raw)
        raw.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return b"\n" not in raw and b"\r" not in raw


class ExportCheck:
    """Goes along an export line by line.

    With `keys` only checkpoints that one of them, or a key that it followed, has signed count as known;
    without, those of the key that signed the last one.
    """

    def __init__(self, keys: Collection[bytes] = ()) -> None:
        self.records = 0
        self.checkpoints = 0
        self.signers: dict[bytes, int] = {}
        self.place = BEGINNING
        self.pruned_seq = 0
        self.ended = False
        self._keys = frozenset(keys)
        self._walk = Walk()
        self._begun = False
        self._rollovers: list[str] = []
        self._hashes: dict[int, str] = {}

    def take(self, raw: bytes) -> Break | None:
        """The next line; a break where the chain, or the file, does not hold."""
        wanted = self._walk.place.seq + 1
        try:
            line = msgspec.json.decode(raw, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Break(wanted, f"the line for record {wanted} is no JSON object of an export, or was torn")
        if self.ended:
            return Break(wanted, "there are lines behind the last one")
        if line.type == "chain" or not self._begun:
            return self._begin(line)
        match line.type:
            case "rollover":
                return self._rollover(line)
            case "record":
                return self._record(line)
            case "checkpoint":
                return self._checkpoint(line)
            case "end":
                self.ended = True
                if (line.head_seq, line.hash) != self._walk.place:
                    return Break(wanted, f"record {wanted} is missing: the chain ended at {line.head_seq}")
        return None

    def _begin(self, line: Line) -> Break | None:
        if self._begun or line.type != "chain" or line.format != FORMAT:
            return Break(self._walk.place.seq + 1, "the file does not begin as an export of a chain")
        self._begun = True
        self.pruned_seq = line.pruned_seq
        place = Place(line.pruned_seq, line.pruned_hash)
        self._walk = Walk(place)
        self._hashes = {place.seq: place.hash}
        return None

    def _rollover(self, line: Line) -> Break | None:
        wanted = self._walk.place.seq + 1
        if len(self._rollovers) >= ROLLOVERS_MAX:
            return Break(wanted, f"there are more than {ROLLOVERS_MAX} rollover lines, which no export has")
        if len(line.statement) > STATEMENT_MAX:
            return Break(wanted, f"a rollover line has more than {STATEMENT_MAX} characters")
        self._rollovers.append(line.statement)
        return None

    def _record(self, line: Line) -> Break | None:
        record = StoredRecord(
            line.seq,
            line.kind,
            line.at,
            line.actor,
            line.subject,
            bytes(line.detail),
            line.prev_hash,
            line.hash,
        )
        bad = self._walk.take((record,))
        if bad is None:
            self.records += 1
            # Checkpoints follow on the record that they sign: more need not be remembered.
            self._hashes = {record.seq: record.hash}
        self.place = self._walk.place
        return bad

    def _checkpoint(self, line: Line) -> Break | None:
        verdict = judge(
            line.note, seq=line.seq, hashes=self._hashes, head=self._walk.place.seq, keys=frozenset()
        )
        if verdict.bad is None and verdict.signer is not None:
            if verdict.signer not in self.signers and len(self.signers) >= SIGNERS_MAX:
                return Break(line.seq, f"checkpoints are signed by more than {SIGNERS_MAX} keys")
            self.checkpoints += 1
            self.signers[verdict.signer] = line.seq
        return verdict.bad

    def end(self) -> Break | None:
        """To be asked after the last line: whether the file was cut off."""
        wanted = self._walk.place.seq + 1
        if not self._begun:
            return Break(1, "the file is empty")
        return None if self.ended else Break(wanted, f"the file ends before record {wanted}: it was cut off")

    @property
    def other_keys(self) -> list[str]:
        """Keys that signed checkpoints and are none of those given, nor one that those followed."""
        latest = max(self.signers.items(), key=lambda item: item[1], default=None)
        current = self._keys or ({latest[0]} if latest else set())
        statements = [found for text in self._rollovers if (found := parse_rollover(text)) is not None]
        known = {key for one in current for key in vouched(one, statements)}
        return sorted(show_key(key) for key in self.signers if key not in known)

    @property
    def signed_by(self) -> str | None:
        """The key that signed the last checkpoint."""
        latest = max(self.signers.items(), key=lambda item: item[1], default=None)
        return None if latest is None else show_key(latest[0])
