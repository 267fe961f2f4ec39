"""The time that this node can be sure of, kept over restarts; and the operator's word for the wall clock."""

from collections.abc import Callable
from datetime import datetime

import msgspec

from ambientd.core.records import AuditEntry
from ambientd.core.rejection import Rejected
from ambientd.core.timefmt import from_ms, rfc3339_ms
from ambientd.core.trustedtime import Mark, Reading, Trusted, accept, fold, judge
from ambientd.ports.store import Store, Transaction
from ambientd.ports.trustedtime import TimeSource
from ambientd.wire.clock_messages import ClockView

SETTING = "trusted_time"
SUBJECT = "clock"
_LATEST_MS = 253_402_300_799_999  # the end of the year 9999


class KeptTime:
    """`ports.autonomy.TrustedClock`, and the bounds of the time for who needs to know how sure it is.

    Until `load` nothing is known but the day that this version was made, and every bound is open.
    """

    def __init__(
        self,
        source: TimeSource,
        *,
        released_ms: int,
        noticed: Callable[[str | None], None] = lambda doubt: None,
    ) -> None:
        """`released_ms`: a wall clock that says less was never set. `noticed` is told when the wall clock
        comes to be in doubt, with the reason, and when it is believed again; it must not block."""
        self._source = source
        self._released_ms = released_ms
        self._mark: Mark | None = None
        self._loaded = False
        self._noticed = noticed
        self._was_in_doubt = False

    # --- asking

    def look(self) -> Trusted:
        """The bounds of this moment. The kernel is asked only while the wall clock is in doubt."""
        reading = self._source.reading()
        found = self._fold(reading)
        if found.doubt is not None and self._source.is_synchronised():
            found = self._fold(msgspec.structs.replace(reading, synchronised=True))
        if self._loaded and (found.doubt is not None) != self._was_in_doubt:
            self._was_in_doubt = not self._was_in_doubt
            self._noticed(found.doubt)
        return found

    def _fold(self, reading: Reading) -> Trusted:
        released = self._released_ms
        if not self._loaded:
            lower = Mark(floor_ms=released, boot_ms=reading.boot_ms, boot_id=reading.boot_id)
            found = judge(lower, reading, released_ms=released)
            return msgspec.structs.replace(found, doubt="what this node has seen of time is not read yet")
        self._mark = fold(self._mark, reading, released_ms=released)
        return judge(self._mark, reading, released_ms=released)

    @property
    def is_loaded(self) -> bool:
        """Whether the mark was read."""
        return self._loaded

    def now(self) -> datetime:
        """The instant to hold expiry against: the later of wall clock and high-water mark."""
        return from_ms(min(self.look().now_ms, _LATEST_MS))

    def reached(self) -> datetime:
        """The instant that has certainly been reached."""
        return from_ms(min(self.look().earliest_ms, _LATEST_MS))

    @property
    def doubt(self) -> str | None:
        """Why the wall clock is not believed at the moment, in words; None when it is."""
        return self.look().doubt

    # --- keeping

    async def load(self, store: Store) -> bool:
        """Reads the mark and keeps the one of now. False when what was kept cannot be read: then the wall
        clock is in doubt until it is confirmed. Raises as `Store` does."""
        if self.is_loaded:
            return True
        text = await store.read(lambda tx: tx.settings.get(SETTING))
        if self._loaded:  # somebody else was faster
            return True
        mark = None if text is None else _parse(text)
        self._mark = mark or (None if text is None else _unreadable(self._released_ms))
        self._loaded = True
        await self.save(store)
        return text is None or mark is not None

    async def save(self, store: Store) -> None:
        """Keeps the mark of this moment; nothing before `load`. Raises as `Store` does."""
        if self._loaded:
            await store.write(self.keeper())

    def keeper(self) -> Callable[[Transaction], None]:
        """Keeps the mark of this moment in a transaction that relies on it."""
        self.look()
        text = None if self._mark is None else msgspec.json.encode(self._mark).decode()

        def keep(tx: Transaction) -> None:
            if text is not None:
                tx.settings.put(SETTING, text)

        return keep

    async def accept(self, store: Store, actor: str) -> ClockView | Rejected:
        """Believes the wall clock as it is, even if it is behind the mark. Raises as `Store` does, and
        believes nothing then: the record and the new mark are one write."""
        before, reading = self.look(), self._source.reading()
        mark = accept(reading, released_ms=self._released_ms)
        if not self._loaded or mark is None:
            return Rejected(
                "CLOCK_IMPOSSIBLE",
                f"the wall clock says {_shown(reading.wall_ms)}, before the day this version was made: "
                "set it first, then accept it",
            )

        def work(tx: Transaction) -> int:
            tx.settings.put(SETTING, msgspec.json.encode(mark).decode())
            return tx.audit.append(
                AuditEntry(
                    kind="clock_accepted",
                    at=from_ms(reading.wall_ms),
                    actor=actor,
                    subject=SUBJECT,
                    detail={
                        "wall": _shown(reading.wall_ms),
                        "mark": _shown(before.earliest_ms),
                        "doubt": before.doubt,
                    },
                )
            )

        audit_id = await store.write(work)
        self._mark = mark
        return self.view(audit_id=audit_id)

    def view(self, *, audit_id: int | None = None) -> ClockView:
        """What an operator is told."""
        found, reading = self.look(), self._source.reading()
        return ClockView(
            wall=_shown(reading.wall_ms),
            mark=_shown(found.earliest_ms),
            now=_shown(found.now_ms),
            confirmed=found.latest_ms is not None,
            synchronised=self._source.is_synchronised(),
            doubt=found.doubt,
            audit_id=audit_id,
        )


def _parse(text: str) -> Mark | None:
    try:
        return msgspec.json.decode(text, type=Mark)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _unreadable(released_ms: int) -> Mark:
    return Mark(floor_ms=released_ms, boot_ms=0, boot_id="")


def _shown(ms: int) -> str:
    return rfc3339_ms(from_ms(max(0, min(ms, _LATEST_MS))))
