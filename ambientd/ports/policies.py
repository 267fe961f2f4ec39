"""What the policy cache needs of the store."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from ambientd.core.policymerge import Known
from ambientd.core.policyrecords import PolicyQuery, PolicyRecord, PolicyTotals
from ambientd.core.signeditem import SignedItem


class PolicyRepository(Protocol):
    """Signed policies and tombstones. `issuers` are the trusted ones; what others signed is left out."""

    def known(self, policy_ids: Sequence[str], issuers: Collection[bytes]) -> Mapping[str, Known]:
        """What is known of these ids; ids of which nothing is are left out."""

    def save(self, policy_id: str, known: Known, new: Sequence[PolicyRecord]) -> None:
        """Keeps new items and makes the items of an id what `known` says; all others of it go."""

    def exposed(self, issuers: Collection[bytes]) -> Iterator[tuple[bytes, int]]:
        """Id and expiry (ms) of the highest item of each policy, the first to expire first."""

    def items(self, item_ids: Sequence[bytes]) -> list[SignedItem]:
        """These items, in their order, without those that are gone."""

    def get(self, policy_id: str, issuers: Collection[bytes]) -> list[PolicyRecord]:
        """The items of one policy, the one in force first."""

    def page(self, query: PolicyQuery, issuers: Collection[bytes]) -> list[list[PolicyRecord]]:
        """Policies by id, each as `get` gives it."""

    def candidates(
        self, hosts: Sequence[str], issuers: Collection[bytes], policy_id: str | None = None
    ) -> Iterator[bytes]:
        """Bodies of the policies in force that name one of these hosts, or of the one policy."""

    def due(self, now: int, limit: int) -> list[str]:
        """Policies with something that has expired by an instant (ms)."""

    def forget(self, now: int) -> int:
        """Drops what was remembered of revisions that cannot be valid any more; how many."""

    def count(self) -> int:
        """How many items are kept, whoever signed them."""

    def totals(self, issuers: Collection[bytes], now: int) -> PolicyTotals:
        """Figures over everything that is kept."""
