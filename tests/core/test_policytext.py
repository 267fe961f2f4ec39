"""The policy cache on the status screen."""

from datetime import UTC, datetime, timedelta

from ambientd.core.policyrecords import PolicyTotals
from ambientd.core.policytext import policy_line, policy_problems
from ambientd.core.timefmt import to_ms
from ambientd.wire.autonomy_messages import PolicyStatus


def test_the_row_of_policies_says_how_many_and_how_old() -> None:
    line = policy_line(PolicyStatus(policies=12, version=41, age_sec=7200, held=1, peers=3, peers_agree=3))
    assert line == ("good", "12 policies, newest revision 41, 2h00m ago, 1 held, 3 of 3 peers agree")
    assert policy_line(PolicyStatus(policies=1, version=1, peers=2, peers_agree=1))[0] == "look"
    assert policy_line(PolicyStatus(policies=0, version=0)) == (
        "off",
        "no policies: nothing may leave this node",
    )


def test_policies_that_end_where_nobody_renews_them_are_a_problem() -> None:
    now = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    totals = PolicyTotals(policies=1, soon=to_ms(now + timedelta(hours=2)), untrusted=3)

    def ids(*, renewed: bool) -> list[str]:
        return [one.id for one in policy_problems(totals, now=now, issuers=1, renewed=renewed)]

    assert ids(renewed=False) == ["policy.untrusted", "policy.expiring"]
    assert ids(renewed=True) == ["policy.untrusted"]
    assert list(policy_problems(PolicyTotals(), now=now, issuers=0, renewed=False)) == []
