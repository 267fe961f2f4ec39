"""What `doctor` and `status` say of the peers."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ambientd.core.doctor import good
from ambientd.core.doctorpeers import judge_offsets, judge_peers
from ambientd.core.peertext import peers_line
from ambientd.core.timefmt import rfc3339_ms
from ambientd.wire.autonomy_messages import PeersStatus
from ambientd.wire.peer_messages import PeersView, PeerView

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def peer(name: str, **facts: Any) -> PeerView:
    given: dict[str, Any] = {"state": "linked", "trusted": "operator", "called": name}
    return PeerView(key=f"ed25519:{name}", **(given | facts))


def view(*peers: PeerView, **facts: Any) -> PeersView:
    given: dict[str, Any] = {"enabled": True, "network": "n", "listening": "x:1"}
    return PeersView(**(given | facts), peers=list(peers))


def ago(**span: float) -> str:
    return rfc3339_ms(NOW - timedelta(**span))


@pytest.mark.parametrize(
    ("shown", "result", "words"),
    [
        (view(peer("a"), peer("b")), "ok", "2 trusted, 2 seen in 5 min"),
        (view(peer("a"), peer("b", state="away", seen_at=ago(minutes=4))), "ok", "2 seen"),
        (view(peer("a"), peer("b", state="away", seen_at=ago(minutes=6))), "warn", "b is away"),
        (view(peer("a"), peer("b", state="away")), "warn", "1 seen in 5 min; b is away"),
        (view(peer("a"), peer("s", state="stranger", trusted="")), "ok", "1 not trusted knocked"),
        (view(peer("s", state="stranger", trusted="")), "warn", "no key is trusted"),
        (view(peer("a"), listening=None, reason="cannot listen: taken"), "warn", "cannot listen"),
        (view(peer("a"), listening=None, reason="peers.listen is not set"), "ok", "1 trusted"),
        (view(enabled=False, reason="none of peers.listen … is set"), "skip", "is set"),
        (view(enabled=False, reason="the node's key may not be used"), "fail", "key"),
    ],
)
def test_the_verdict_on_the_peers(shown: PeersView, result: str, words: str) -> None:
    found = judge_peers(shown, NOW)
    assert found.result == result
    assert words in found.text


@pytest.mark.parametrize(
    ("offset", "result", "words"),
    [
        (3_100, "warn", "3.1 s behind a"),
        (-3_100, "warn", "3.1 s ahead of a"),
        (600_000, "warn", "10m00s behind a"),
        (40, "ok", "within 2 s of 1 peer"),
        (None, "ok", "runs forward"),
    ],
)
def test_the_clock_is_held_against_the_peers(offset: int | None, result: str, words: str) -> None:
    found = judge_offsets(view(peer("a", clock_offset_ms=offset)), good("runs forward"))
    assert found.result == result
    assert words in found.text


def test_a_stranger_has_no_say_about_the_clock() -> None:
    stranger = peer("s", state="stranger", trusted="", clock_offset_ms=10**9)
    assert judge_offsets(view(stranger), good("runs forward")).result == "ok"


def test_what_a_peer_calls_itself_does_nothing_to_the_screen() -> None:
    evil = peer("a", called="", state="away")
    evil.name = "\x1b[2J\u202eevil\n" * 20
    text = judge_peers(view(evil), NOW).text
    assert text.isprintable()
    assert len(text) < 100


@pytest.mark.parametrize(
    ("status", "mark", "words"),
    [
        (PeersStatus(True, 3, 2, "0.0.0.0:7946"), "good", "2 of 3 linked, listening on 0.0.0.0:7946"),
        (PeersStatus(True, 3, 0), "off", "0 of 3 linked"),
        (PeersStatus(True, 3, 1, refused=5), "good", "5 messages refused"),
        (PeersStatus(True, 1, 0, reason="cannot listen: taken"), "look", "cannot listen: taken"),
    ],
)
def test_the_row_of_the_status(status: PeersStatus, mark: str, words: str) -> None:
    found = peers_line(status)
    assert found[0] == mark
    assert words in found[1]
