"""Retention, as the API sees it: one run at a time, owned by the node and not by who asked for it."""

from typing import Protocol

from ambientd.core.rejection import Rejected
from ambientd.wire.messages import RetentionAnswer


class RetentionControl(Protocol):
    """Dry runs, runs, and what became of them."""

    async def preview(self, actor: str) -> RetentionAnswer:
        """A plan and what it would remove; changes nothing but the audit."""

    async def start(self, plan_id: str | None, actor: str, *, wait: float) -> RetentionAnswer | Rejected:
        """Starts a run (of a new plan when none is named) and waits up to so many seconds for its end.

        Rejected with RETENTION_RUNS while another runs, PLAN_UNKNOWN for a plan that cannot be run. The run
        goes on when the caller is cancelled. A run that has failed by then raises what it failed with.
        """

    async def latest(self, *, wait: float) -> RetentionAnswer | None:
        """The run under way or the last one, after waiting up to so many seconds for its end."""
