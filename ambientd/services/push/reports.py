"""What is known of the newest report and of those that were acknowledged, so that the store is asked less."""

import msgspec

from ambientd.core.outboxrecords import Depth, KeptReport, StreamState
from ambientd.wire.outbox_enums import OutboxStream


class Reports:
    """Of one membership; `done` are the numbers of reports that were acknowledged and still lie in the outbox
    until the next one is kept."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self._kept: KeptReport | None = None
        self._depth: Depth | None = None
        self._head = 0
        self._told_head = 0

    @property
    def told_head(self) -> int:
        """The audit record that the control plane was told of with a report; 0 when it is to be told again.
        It keeps what later reports leave out."""
        return self._told_head

    def keep(self, report: KeptReport, depth: Depth, head: int) -> None:
        """A report was just kept: what waits with it, and the newest audit record."""
        self._kept, self._depth, self._head = report, depth, head

    def take(self) -> KeptReport | None:
        """The one that was kept last, unless it was taken before."""
        report, self._kept = self._kept, None
        return report

    def take_depth(self) -> Depth | None:
        """What waited then, unless it was taken before."""
        depth, self._depth = self._depth, None
        return depth

    def told(self, report: KeptReport, *, kept_now: bool) -> None:
        """It was acknowledged; `kept_now`: it is the one that `take` gave."""
        self.done.add(report.seq)
        self._told_head = self._head if kept_now else 0

    def forget_head(self) -> None:
        """The control plane is to be told of the newest audit record with the next report."""
        self._told_head = 0

    def forget_depth(self) -> None:
        """Something else waits now."""
        self._depth = None

    def lost(self) -> None:
        """The control plane does not have any more what it had."""
        self.done.clear()
        self.forget_head()
        self.forget_depth()

    def may_be_lost(self, known: int) -> bool:
        """Whether the control plane, which knew of `known` before, may lack what it had acknowledged."""
        streams = () if self._depth is None else self._depth.streams
        return all(known < one.acked_seq for one in streams if one.stream is OutboxStream.REPORTS)

    def seen(self, found: Depth) -> Depth:
        """What waits really: those that were acknowledged do not."""
        return msgspec.structs.replace(found, streams=tuple(map(self._seen, found.streams)))

    def _seen(self, one: StreamState) -> StreamState:
        if one.stream is not OutboxStream.REPORTS:
            return one
        count = len(self.done)
        return msgspec.structs.replace(
            one, waiting=max(0, one.waiting - count), acknowledged=one.acknowledged + count
        )
