from datetime import UTC, datetime

import msgspec
import pytest

from ambientd.core.outboxtext import FEW, outbox_line
from ambientd.wire.autonomy_messages import OutboxStatus

NOW = datetime(2026, 11, 20, 15, 40, tzinfo=UTC)
EMPTY = OutboxStatus(items=0, bytes=0, bytes_max=64 * 1024 * 1024)
LATELY = "2026-11-20T15:39:48.000Z"


@pytest.mark.parametrize(
    ("change", "mark", "text"),
    [
        ({}, "good", "nothing waits"),
        ({"last_push_at": LATELY}, "good", "nothing waits, last push 12s ago"),
        (
            {"items": 3, "bytes": 2048, "oldest_at": LATELY},
            "good",
            "3 waiting, oldest 12s, 2.0 KiB of 64 MiB",
        ),
        ({"items": FEW + 1}, "look", f"{FEW + 1} waiting, 0 B of 64 MiB"),
        ({"items": 1, "reason": "no connection"}, "look", "1 waiting, 0 B of 64 MiB"),
        ({"items": 1, "dropped": 9, "dropped_now": 9}, "look", "1 waiting, 0 B of 64 MiB, 9 dropped"),
        # Long ago and told since: counted, and nothing to look at.
        ({"dropped": 9}, "good", "nothing waits, 9 dropped"),
        ({"refused": 2}, "good", "nothing waits, 2 refused"),
    ],
)
def test_the_row_of_the_outbox(change: dict[str, object], mark: str, text: str) -> None:
    assert outbox_line(msgspec.structs.replace(EMPTY, **change), NOW) == (mark, text)
