"""Leases: their form, the order of checks, and how long and how much they allow."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.canonical import canonical
from ambientd.core.decode import Problems
from ambientd.core.destination import Protocol
from ambientd.core.ed25519 import show_key
from ambientd.core.lease import (
    AHEAD_MAX_MS,
    LIFE_MAX_MS,
    REASONS,
    End,
    Ground,
    Held,
    Lease,
    Record,
    Refusal,
    Revocation,
    admit,
    allowance,
    authentic,
    build_item,
    elapsed_ms,
    left_ms,
    over,
    parse_body,
    rebased,
    unusable,
)
from ambientd.core.policy import Policy
from ambientd.core.signeditem import SignedItem, issue
from ambientd.core.trustedtime import Trusted
from tests.fakes.trustedtime import START_MS
from tests.leasekit import DAY, HOUR, NETWORK, NODE, LeaseIssuer, lease_of

ISSUER = LeaseIssuer()
GROUND = Ground(network=NETWORK, node=NODE, issuers=frozenset((ISSUER.public,)))
NEW = Record(used=False, revoked=False)


def time_at(
    ms: int = START_MS, *, later: int | None = 0, doubt: str | None = None, boot: str = "b", boot_ms: int = 0
) -> Trusted:
    """Trusted time; `later` is how much later it may be, None when nobody knows."""
    return Trusted(
        earliest_ms=ms,
        latest_ms=None if later is None else ms + later,
        now_ms=ms + (later or 0),
        boot_ms=boot_ms,
        boot_id=boot,
        doubt=doubt,
    )


def policy_of(**more: Any) -> Policy:
    facts: dict[str, Any] = {
        "network": NETWORK,
        "id": "web",
        "revision": 1,
        "destinations": ("https://api.example",),
        "protocols": (Protocol.HTTPS,),
        "not_before": 0,
        "not_after": START_MS + DAY,
        "issued_at": 0,
    }
    return Policy(**(facts | more))


def code(found: object) -> str:
    assert isinstance(found, Refusal), found
    assert found.sentence
    return found.code


def signed(fields: dict[str, Any]) -> SignedItem:
    return issue(ISSUER.seed, ISSUER.public, canonical(fields))


def fields_of(lease: Lease) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(lease).items() if value is not None}


# --- form


def test_a_lease_comes_back_as_it_was_signed() -> None:
    lease = lease_of(max_bytes=5, protocols=("https", "quic"))
    item = build_item(ISSUER.seed, ISSUER.public, lease)
    assert authentic(item, GROUND) == lease
    assert parse_body(item.body) == lease


def test_a_revocation_comes_back_and_is_for_every_node() -> None:
    found = authentic(ISSUER.revocation("x"), msgspec.structs.replace(GROUND, node=None))
    assert found == Revocation(network=NETWORK, jti="x", issued_at=START_MS)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    bad = fields_of(lease_of()) | {"jti": "", "node": "x", "max_mbps": 0, "protocols": ["ftp"], "more": 1}
    del bad["session_id"]
    found = parse_body(canonical(bad))
    assert isinstance(found, Problems)
    assert [one.field for one in found.details] == [
        "jti",
        "node",
        "session_id",
        "max_mbps",
        "protocols[0]",
        "more",
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"exp": START_MS - 1_000}, "exp"),
        ({"exp": START_MS + LIFE_MAX_MS}, "exp"),
        ({"protocols": ["https", "https"]}, "protocols"),
        ({"protocols": []}, "protocols"),
        ({"jti": "revocations"}, "jti"),
        ({"jti": "a/b"}, "jti"),
        ({"jti": "a\n"}, "jti"),
        ({"max_duration_ms": 0}, "max_duration_ms"),
        ({"max_duration_ms": True}, "max_duration_ms"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"v": 2}, "v"),
        ({"kind": "policy"}, "kind"),
        ({"nbf": -1}, "nbf"),
        ({"session_id": "a b"}, "session_id"),
    ],
)
def test_what_cannot_be_meant_is_malformed(changes: dict[str, Any], field: str) -> None:
    found = parse_body(canonical(fields_of(lease_of()) | changes))
    assert isinstance(found, Problems)
    assert [one.field for one in found.details] == [field]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"kind": "lease"}', b"null", b"\xff", b"[" * 5000])
def test_what_is_not_canonical_is_malformed(body: bytes) -> None:
    found = parse_body(body)
    assert isinstance(found, Problems)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    assert isinstance(parse_body(body), Problems)


@pytest.mark.parametrize("name", ["kind", "v"])
def test_kind_and_version_must_be_said(name: str) -> None:
    fields = fields_of(lease_of())
    del fields[name]
    assert isinstance(parse_body(canonical(fields)), Problems)


def test_only_what_can_be_read_is_signed() -> None:
    with pytest.raises(ValueError, match="exp must be after"):
        build_item(ISSUER.seed, ISSUER.public, lease_of(exp=1))


# --- who, for whom


def test_a_stranger_is_not_even_read() -> None:
    assert code(authentic(LeaseIssuer(3).lease(), GROUND)) == "untrusted_issuer"
    item = ISSUER.lease()
    assert code(authentic(SignedItem(b"{", item.issuer, item.signature), GROUND)) == "bad_signature"
    swapped = SignedItem(item.body, LeaseIssuer(3).public, item.signature)
    both = msgspec.structs.replace(GROUND, issuers=(ISSUER.public, LeaseIssuer(3).public))
    assert code(authentic(swapped, both)) == "bad_signature"


def test_every_bit_is_signed() -> None:
    item = ISSUER.lease()
    for place in range(0, len(item.body) * 8, 7):
        body = bytearray(item.body)
        body[place // 8] ^= 1 << place % 8
        assert (
            code(authentic(SignedItem(bytes(body), item.issuer, item.signature), GROUND)) == "bad_signature"
        )


def test_another_network_or_node_is_refused() -> None:
    assert code(authentic(ISSUER.lease(network="other"), GROUND)) == "other_network"
    assert code(authentic(ISSUER.lease(node=show_key(ISSUER.public)), GROUND)) == "other_node"
    assert code(authentic(ISSUER.lease(), msgspec.structs.replace(GROUND, node=None))) == "no_identity"
    assert code(authentic(signed({"kind": "policy", "v": 1}), GROUND)) == "malformed"


# --- activating


def test_a_good_lease_is_admitted() -> None:
    assert admit(lease_of(), NEW, time_at(), policy_of()) is None


def test_checks_come_in_order_and_the_first_refusal_is_told() -> None:
    """Each round mends what was told; so the order is the one that is documented."""
    lease = lease_of(nbf=START_MS + 9, issued_at=START_MS + AHEAD_MAX_MS + 1, protocols=("https", "udp"))
    record = Record(used=True, revoked=True, since_ms=lease.issued_at + 1, forgotten_ms=lease.exp)
    policy: Policy | None = None
    told = []
    mend = msgspec.structs.replace
    for name in range(12):
        found = admit(lease, record, time_at(later=None if name < 8 else 0), policy)
        if found is None:
            break
        told.append(found.code)
        match found.code:
            case "revoked":
                record = mend(record, revoked=False)
            case "used":
                record = mend(record, used=False)
            case "record_lost":
                record = mend(record, since_ms=0)
            case "expired":
                record = mend(record, forgotten_ms=0)
            case "issued_in_future":
                lease = mend(lease, issued_at=START_MS)
            case "not_yet_valid":
                lease = mend(lease, nbf=START_MS)
            case "policy_unknown":
                policy = policy_of(destinations=())
            case "no_destinations":
                policy = policy_of()
            case "protocol_exceeds_policy":
                lease = mend(lease, protocols=("https",))
    assert list(dict.fromkeys(told)) == [
        "revoked",
        "used",
        "record_lost",
        "expired",
        "issued_in_future",
        "not_yet_valid",
        "clock_in_doubt",
        "policy_unknown",
        "no_destinations",
        "protocol_exceeds_policy",
    ]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (time_at(START_MS + DAY - 1), None),
        (time_at(START_MS + DAY), "expired"),
        (time_at(START_MS - 1_001), "not_yet_valid"),
        (time_at(START_MS - 1_000), None),
        (time_at(later=DAY - 1), None),
        (time_at(later=DAY), "clock_in_doubt"),
        (time_at(later=None), "clock_in_doubt"),
        (time_at(START_MS - 2_000, later=DAY, doubt="jumped"), "clock_in_doubt"),
    ],
)
def test_both_bounds_of_the_time_must_fit(time: Trusted, expected: str | None) -> None:
    found = admit(lease_of(), NEW, time, policy_of())
    assert (found and found.code) == expected


def test_every_reason_has_a_sentence() -> None:
    assert [name for name, text in REASONS.items() if not text] == []


# --- how long, how much


def held_of(lease: Lease | None = None, **more: Any) -> Held:
    facts: dict[str, Any] = {"activated_ms": START_MS, "boot_id": "b", "boot_ms": 0}
    return Held(lease=lease or lease_of(), **(facts | more))


def test_a_lease_ends_at_its_expiry_or_its_duration() -> None:
    held = held_of()
    assert over(held, time_at(boot_ms=HOUR - 1)) is None
    assert over(held, time_at(boot_ms=HOUR)) is End.DURATION
    assert over(held, time_at(START_MS + DAY)) is End.EXPIRED
    assert left_ms(held, time_at(boot_ms=HOUR - 5)) == 5
    assert left_ms(held, time_at(START_MS + DAY - 7)) == 7
    assert left_ms(held, time_at(boot_ms=2 * HOUR)) == 0


def test_a_wall_clock_in_doubt_refuses_and_ends_nothing() -> None:
    held, jumped = held_of(), time_at(later=10 * DAY, doubt="jumped")
    assert over(held, jumped) is None
    assert code(unusable(held, jumped)) == "clock_in_doubt"
    assert code(unusable(held, time_at(later=None))) == "clock_in_doubt"
    assert unusable(held, time_at()) is None
    assert code(unusable(held, time_at(boot_ms=HOUR))) == "duration"
    assert code(unusable(held, time_at(START_MS + DAY))) == "expired"


def test_a_step_of_the_wall_clock_is_no_duration() -> None:
    held = held_of()
    assert elapsed_ms(held, time_at(START_MS + DAY, boot_ms=60_000)) == 60_000


def test_over_a_start_of_the_machine_the_time_it_was_off_counts() -> None:
    held = held_of(elapsed_ms=5_000, boot_ms=0)
    after = time_at(START_MS + 90_000, boot="c", boot_ms=2_000)
    assert elapsed_ms(held, after) == 90_000
    again = rebased(held, after)
    assert (again.boot_id, again.elapsed_ms) == ("c", 90_000)
    assert elapsed_ms(again, time_at(START_MS + DAY, boot="c", boot_ms=3_000)) == 91_000
    unsure = time_at(START_MS - 90_000, later=None, boot="c")
    assert rebased(held, unsure) == held
    assert elapsed_ms(held, unsure) == 5_000


@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(0, 10**7), st.booleans()), max_size=20))
def test_a_duration_never_gets_shorter_or_negative(steps: list[tuple[int, int, bool]]) -> None:
    """Whatever trusted time, boots and rebasing do."""
    held, boot, boot_ms, last = held_of(), 0, 0, 0
    for step, passed, reboots in steps:
        boot, boot_ms = (boot + 1, 0) if reboots else (boot, boot_ms + passed)
        time = time_at(START_MS + abs(step), boot=f"b{boot}" if boot else "b", boot_ms=boot_ms)
        assert elapsed_ms(held, time) >= last
        held = rebased(held, time)
        assert held.elapsed_ms >= last
        last = held.elapsed_ms


def test_the_rate_counts_from_the_activation_and_the_sum_bounds_it() -> None:
    lease = lease_of(max_mbps=8)
    assert allowance(lease, 0) == 1_000_000
    assert allowance(lease, 2_000) == 2_000_000
    assert allowance(lease, 2 * HOUR) == allowance(lease, HOUR) == 3_600_000_000
    assert allowance(lease_of(max_bytes=1_500_000), 2_000) == 1_500_000
    assert allowance(lease_of(max_duration_ms=1), 0) == 1_000_000


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_allowance_only_grows(first: int, second: int) -> None:
    lease = lease_of()
    low, high = sorted((first, second))
    assert allowance(lease, low) <= allowance(lease, high) <= allowance(lease, lease.max_duration_ms)
