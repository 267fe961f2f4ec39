"""Messages of `POST /api/v1/node/recost`. Keys are only ever added."""

import msgspec

ROWS_DEFAULT = 5_000
ROWS_MAX = 20_000


class RecostRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Costs estimated rows anew. `version` is a price table's name, the current one's when it is left out.

    `since` (inclusive) and `until` (exclusive) are RFC 3339 and bound the start of the session. One call
    looks at `rows` rows behind `after`; `next` of its answer is the `after` of the following call.
    """

    dry_run: bool = False
    version: str | None = None
    since: str | None = None
    until: str | None = None
    after: int = 0
    rows: int = ROWS_DEFAULT


class RecostAnswer(msgspec.Struct, omit_defaults=True):
    """What one call did, or would have done. `next` is absent when nothing is left.

    Every row that was read is counted once more: changed, unchanged (it costs the same by this table), or
    unpriced (the table has no price for its model: it keeps what it has). The sums are over changed rows.
    """

    version: str
    dry_run: bool
    read: int
    changed: int
    unchanged: int
    unpriced: int
    cost_before_usd: float
    cost_after_usd: float
    next: int | None = None
