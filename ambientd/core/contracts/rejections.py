"""`contract_rejection_total{code,version}`: how often ingests were refused since the start (R3.170)."""

from collections.abc import Mapping

METRIC = "contract_rejection_total"
# Codes and versions are few and our own, never what a sender wrote; the bound is for the day that changes.
LABELS_MAX = 64


class Rejections:
    """Counts refusals by code and contract version. Only ever touched on the event loop."""

    def __init__(self) -> None:
        """All counters are zero."""
        self._counts: dict[tuple[str, str], int] = {}

    def count(self, code: str, version: str) -> None:
        """One more."""
        label = (code, version)
        if label not in self._counts and len(self._counts) >= LABELS_MAX:
            label = ("other", "other")
        self._counts[label] = self._counts.get(label, 0) + 1

    def totals(self) -> Mapping[tuple[str, str], int]:
        """(code, version) to count, sorted."""
        return dict(sorted(self._counts.items()))
