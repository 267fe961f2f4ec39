"""The words of the outbox."""

from enum import StrEnum


class OutboxStream(StrEnum):
    """What goes to the control plane, each in an order of its own."""

    REPORTS = "reports"
    AUDIT = "audit"
    LEDGER = "ledger"
    DELTA_V = "delta_v"
    RESULTS = "results"
