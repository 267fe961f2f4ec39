"""Where the account of Δv is kept, what the ledger says for it, and how it stands."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol

from ambientd.core.delta_v_account import Account, Basis, SessionSum, Slice, Span
from ambientd.core.delta_v_inputs import Inputs, Present


class DeltaVRepository(Protocol):
    """The node's sum, its history, and the sums of sessions."""

    def account(self) -> Account | None:
        """The account as it was kept last; None before the first time, or when it cannot be understood."""

    def put(
        self, account: Account, slices: Sequence[Slice], sessions: Sequence[SessionSum], at: datetime
    ) -> None:
        """Keeps the account, adds slices to the minutes and hours that they lie in, and keeps the sums of
        sessions; one that is not in the ledger is left out. Old history goes, a little at a time."""

    def slices(self, asked: Span) -> list[Slice]:
        """Pieces of the history, oldest first, without those in which nothing was measured."""

    def sums(self, session_ids: Collection[str]) -> list[SessionSum]:
        """The sums of these sessions, without those that have none."""

    def largest(self, generation: int, limit: int) -> list[SessionSum]:
        """Sessions with the largest sums."""

    def completed(self, since: datetime, until: datetime) -> int:
        """Successful ends after `since` and not after `until`."""

    def present(self, since: datetime, now: datetime, limit: int, *, gateway: bool) -> list[Present]:
        """Sessions that this node ran at some time after `since`, with `gateway` those behind its gateway as
        well: those that run, and those that have ended."""


class DeltaVView(Protocol):
    """How the account stands now, from memory."""

    @property
    def account(self) -> Account | None:
        """None until it was read."""

    @property
    def inputs(self) -> Inputs | None:
        """Those of the last sample; None before the first of this process."""

    @property
    def basis(self) -> Basis:
        """What it counts by."""

    @property
    def interval(self) -> float:
        """Seconds of one sample."""
