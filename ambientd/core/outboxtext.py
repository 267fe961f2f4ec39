"""What status says of the outbox."""

from datetime import datetime

from ambientd.core.text import age_of, number, size
from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire.autonomy_messages import OutboxStatus

# What comes together within a report's interval is on its way, and no backlog.
FEW = 50


def outbox_line(outbox: OutboxStatus, now: datetime) -> tuple[str, str]:
    """Mark and text of the row: `218 waiting, oldest 6m12s, 1.1 MiB of 64 MiB`."""
    if not outbox.items:
        text, mark = "nothing waits", "good"
    else:
        text = f"{number(outbox.items)} waiting"
        if outbox.oldest_at:
            text += f", oldest {age_of(parse_rfc3339(outbox.oldest_at), now)}"
        text += f", {size(outbox.bytes)} of {size(outbox.bytes_max)}"
        mark = "look" if outbox.items > FEW or outbox.reason else "good"
    if outbox.dropped:
        text, mark = f"{text}, {number(outbox.dropped)} dropped", "look" if outbox.dropped_now else mark
    if outbox.refused:
        text += f", {number(outbox.refused)} refused"
    if outbox.last_push_at:
        text += f", last push {age_of(parse_rfc3339(outbox.last_push_at), now)} ago"
    return mark, text
