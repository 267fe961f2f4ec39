"""Hash-chained feeds: recognised, so that nothing is ever written into one, and audited.

A chain starts with a `ledger_anchor` line. From there on every line carries `hash`, the SHA-256 of
the line's object without `hash` (sorted keys, compact, UTF-8), and `prev_hash`, the hash before it.
An outsider's raw append stops the chain's owner until a person repairs it, so ours refuses (R2.68).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would cost the helper 0.7 MiB
    from typing import Any

ANCHOR_ACTION = "ledger_anchor"
GENESIS = "GENESIS"
REFUSAL = "the feed is hash-chained by another program; a line of ours would break its chain"

_MARKS = (b'"hash"', b'"prev_hash"', b'"ledger_anchor"')


def is_chained(event: Mapping[str, Any]) -> bool:
    """Whether this line belongs to a chain."""
    return "hash" in event or "prev_hash" in event or event.get("action") == ANCHOR_ACTION


def may_be_chained(line: bytes) -> bool:
    """A cheap first look at a line's bytes; only lines that pass need decoding."""
    return any(mark in line for mark in _MARKS)


def entry_hash(event: Mapping[str, Any]) -> str:
    """The hash that the line should carry."""
    import hashlib  # four megabytes that the helper process never needs

    rest = {key: value for key, value in event.items() if key != "hash"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ChainAudit:
    """Folds a feed's lines, in order, into complaints about its chain."""

    def __init__(self) -> None:
        self._last: str | None = None

    @property
    def anchored(self) -> bool:
        """Whether the anchor was seen: from then on every line must be linked."""
        return self._last is not None

    def step(self, event: Mapping[str, Any]) -> list[str]:
        """What is wrong with this line as a link; nothing before an anchor unless it is hashed."""
        stored = event.get("hash")
        hashed = isinstance(stored, str) and bool(stored.strip())
        if self._last is None:
            return self._before_anchor(event, stored) if "hash" in event else []
        if not hashed:
            return ["hash: missing after the ledger anchor"]
        problems = []
        if event.get("prev_hash") != self._last:
            problems.append("prev_hash: is not the hash of the line before")
        if stored != entry_hash(event):
            problems.append("hash: is not the hash of this line")
        self._last = str(stored)
        return problems

    def _before_anchor(self, event: Mapping[str, Any], stored: object) -> list[str]:
        if event.get("action") != ANCHOR_ACTION:
            return ["hash: a hashed line before any ledger anchor"]
        self._last = str(stored)
        problems = []
        if event.get("prev_hash") != GENESIS:
            problems.append(f"prev_hash: an anchor names {GENESIS}")
        if stored != entry_hash(event):
            problems.append("hash: is not the hash of this line")
        return problems
