"""The policy cache in a line of the status screen, and what of it a person should look at."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from ambientd.core.policyrecords import PolicyTotals
from ambientd.core.text import age, number
from ambientd.core.timefmt import from_ms
from ambientd.wire.autonomy_messages import PolicyStatus
from ambientd.wire.messages import Problem

_WARNING = "warning"
# Where nobody renews a policy by itself, a person should know a day before it ends.
SOON = timedelta(days=1)


def policy_line(status: PolicyStatus) -> tuple[str, str]:
    """Mark and text of the row `policy`."""
    if status.reason is not None:
        return "look", status.reason
    if status.policies == 0:
        return "off", "no policies: nothing may leave this node" + _rest(status)
    plural = "y" if status.policies == 1 else "ies"
    text = f"{number(status.policies)} polic{plural}, newest revision {number(status.version)}"
    if status.age_sec is not None:
        text += f", {age(status.age_sec)} ago"
    text += _rest(status)
    is_odd = status.expired or status.peers_agree < status.peers
    return ("look" if is_odd else "good"), text


def _rest(status: PolicyStatus) -> str:
    text = f", {number(status.held)} held" if status.held else ""
    text += f", {number(status.expired)} expired" if status.expired else ""
    if status.peers:
        text += f", {status.peers_agree} of {status.peers} peers agree"
    return text


def policy_problems(totals: PolicyTotals, *, now: datetime, issuers: int, renewed: bool) -> Iterable[Problem]:
    """Policies that are about to end while nobody can renew them, and items that nobody vouches for.

    `renewed`: the control plane is there and sends new ones.
    """
    if totals.untrusted:
        text = f"{totals.untrusted} policy items are ignored: their issuers are not in policy.issuers"
        if issuers == 0:
            text = f"{totals.untrusted} policy items are ignored: policy.issuers is empty"
        yield Problem("policy.untrusted", _WARNING, text, "ambientctl config show --origin")
    if totals.soon is not None and not renewed:
        left = from_ms(totals.soon) - now
        if left < SOON:
            told = "has expired" if left <= timedelta() else f"expires in {age(left.total_seconds())}"
            yield Problem("policy.expiring", _WARNING, f"an egress policy {told}", "ambientctl policy list")
