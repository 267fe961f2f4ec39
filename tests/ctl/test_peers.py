"""`ambientctl peers` and `sync`: what people and scripts get."""

import json
from typing import Any

import msgspec
import pytest

from ambientd.wire import peer_messages as p
from ambientd.wire import routes
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

KEY, OTHER = "ed25519:" + "7f" * 32, "ed25519:" + "c4" * 32
EVIL = "\x1b[2J\u202egood\r\n" + "x" * 10_000


def answer(document: msgspec.Struct) -> Reply:
    return Reply(body=msgspec.json.encode(document))


def peers(*found: p.PeerView, **facts: Any) -> Reply:
    given: dict[str, Any] = {"enabled": True, "network": "n", "key": OTHER, "listening": "0.0.0.0:7946"}
    return answer(p.PeersView(**(given | facts), peers=list(found)))


LINKED = p.PeerView(
    key=KEY,
    state="linked",
    trusted="operator",
    called="edge-03",
    name="edge",
    address="10.0.0.3:7946",
    agrees=True,
    refused={"replayed": 2},
)


def test_the_list_shows_key_state_and_trust(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.PEERS] = peers(LINKED)
    found = ctl("peers")
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0].split() == [
        "PEER",
        "KEY",
        "STATE",
        "TRUST",
        "AGREES",
        "SEEN",
        "SYNC",
        "REFUSED",
        "ADDRESS",
    ]
    assert "edge-03" in lines[1]
    assert "ed25519:7f7f7f7f…" in lines[1]
    assert lines[2] == "1 of 1 trusted peers linked, listening on 0.0.0.0:7946."
    assert lines[3] == f"This node's key: {OTHER}"
    assert all(len(line) <= 110 for line in lines[:2])


def test_json_has_the_schema_and_camel_keys(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.PEERS] = peers(LINKED, receive_only=True)
    document = json.loads(ctl("peers", "--json").out)
    assert document["schema"] == "ambient.peers/1"
    assert document["receiveOnly"] is True
    assert document["items"][0]["refused"] == {"replayed": 2}


@pytest.mark.parametrize("output", ["table", "wide", "tsv", "json"])
def test_what_a_peer_says_of_itself_is_inert(ctl: Ctl, daemon: FakeDaemon, output: str) -> None:
    evil = p.PeerView(key=EVIL, state=EVIL, name=EVIL, address=EVIL, reason=EVIL, refused={EVIL: 1})
    daemon.script[routes.PEERS] = peers(evil, listening=EVIL, reason=EVIL, key=EVIL)
    found = ctl("peers", "-o", output)
    assert found.code == 0
    assert "\x1b" not in found.out
    if output != "json":  # there the reader decides what to do with a string
        assert "\u202e" not in found.out
        assert "\r" not in found.out


def test_peers_that_are_off_say_why(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.PEERS] = peers(enabled=False, listening=None, reason="peers.listen is not set")
    assert "○ Peers are off: peers.listen is not set" in ctl("peers").out


def test_trust_and_untrust_say_what_they_did(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.PEERS_TRUST] = answer(p.TrustAnswer(True, KEY, "edge-03", True, 41))
    found = ctl("peers", "trust", KEY, "--name", "edge-03")
    assert (found.code, found.out) == (0, f"✓ {KEY} (edge-03) is trusted.\n  audit #41\n")
    assert json.loads(daemon.seen[-1].body) == {"key": KEY, "name": "edge-03"}
    daemon.script[f"{routes.PEERS_TRUST}/edge-03"] = answer(p.TrustAnswer(True, KEY, "edge-03", True, 42))
    found = ctl("peers", "untrust", "edge-03", "--json")
    document = json.loads(found.out)
    assert document["schema"] == "ambient.peer-trust/1"
    assert document["auditId"] == 42
    assert daemon.seen[-1].method == "DELETE"


@pytest.mark.parametrize(("code", "expected"), [("NOT_FOUND", 5), ("AMBIGUOUS", 5), ("PEER_CONFIGURED", 6)])
def test_refusals_have_the_exit_codes_of_their_rows(
    ctl: Ctl, daemon: FakeDaemon, code: str, expected: int
) -> None:
    daemon.script[f"{routes.PEERS_TRUST}/edge"] = refused(code, "because")
    assert ctl("peers", "untrust", "edge").code == expected


def synced(**facts: Any) -> Reply:
    given: dict[str, Any] = {"dry_run": False, "receive_only": False, "added": 2, "kept": 11, "refused": 0}
    given["peers"] = [p.SyncedPeer(key=KEY, called="edge-03", policies=13, added=2, kept=11)]
    return answer(p.SyncView(**(given | facts)))


def test_a_round_is_a_table_and_a_sum(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.SYNC] = synced()
    found = ctl("sync")
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[0].split() == ["PEER", "KEY", "POLICY", "SEEN", "ADDED", "KEPT", "REFUSED"]
    assert lines[1].split() == ["edge-03", "ed25519:7f7f7f7f…", "13", "never", "2", "11", "0"]
    assert lines[2] == "✓ 2 entries added, 0 changed (import never overwrites), 0 refused"
    assert json.loads(daemon.seen[-1].body) == {"peers": False, "control_plane": False, "dry_run": False}


def test_refused_entries_are_named_and_fail_with_strict_alone(ctl: Ctl, daemon: FakeDaemon) -> None:
    one = p.SyncedPeer(key=KEY, called="edge-19", refused=[p.SyncRefusal("bad_signature", "ab" * 32)])
    daemon.script[routes.SYNC] = synced(peers=[one], refused=1, added=0)
    found = ctl("sync", "--peers")
    assert found.code == 0
    assert "edge-19  item abababababababab: bad_signature" in found.out
    assert ctl("sync", "--strict").code == 1
    document = json.loads(ctl("sync", "--json").out)
    assert document["peers"][0]["refused"] == [{"code": "bad_signature", "item": "ab" * 32}]


def test_without_an_upstream_it_says_that_it_only_receives(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.SYNC] = synced(receive_only=True)
    assert "only receives" in ctl("sync").out


def test_nobody_linked_is_exit_three(ctl: Ctl, daemon: FakeDaemon) -> None:
    away = p.SyncedPeer(key=KEY, called="edge-03", error="not linked")
    daemon.script[routes.SYNC] = synced(peers=[away], added=0)
    found = ctl("sync")
    assert found.code == 3
    assert "no trusted peer is linked" in found.err
    daemon.script[routes.SYNC] = synced(peers=[], added=0)
    assert "no peer is trusted" in ctl("sync").err


def test_no_control_plane_and_no_peers_are_exit_six(ctl: Ctl, daemon: FakeDaemon) -> None:
    for code in ("NO_CONTROL_PLANE", "PEERS_OFF"):
        daemon.script[routes.SYNC] = refused(code, "because")
        found = ctl("sync", "--control-plane")
        assert (found.code, found.out) == (6, "")
        assert "because" in found.err
