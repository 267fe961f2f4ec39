"""The verdicts of `doctor` on the peers, and on this clock beside theirs."""

from datetime import datetime, timedelta

from ambientd.core.doctor import Finding, fail, good, skip, warn
from ambientd.core.peerviews import LINKED, STRANGER
from ambientd.core.text import age, printable
from ambientd.core.timefmt import parse_rfc3339
from ambientd.wire.peer_messages import PeersView, PeerView

# Peers tell their digest at the interval, two minutes unless configured; two of them may be late.
LATELY = timedelta(minutes=5)
# Snapshots of a LAN are milliseconds old when they come; more is the clocks' difference.
CLOCK_APART_MS = 2_000
ALLOWED_AHEAD = "signed messages allow 5 min"
_NAME_MAX = 32


def judge_peers(view: PeersView, now: datetime) -> Finding:
    """Whether the trusted peers were there lately, and whether any others knock."""
    if not view.enabled:
        reason = printable(view.reason or "")
        return skip(reason) if "is set" in reason else fail(reason, "ambientctl peers")
    trusted = [peer for peer in view.peers if peer.trusted]
    strangers = sum(peer.state == STRANGER for peer in view.peers)
    more = f", {strangers} not trusted knocked" if strangers else ""
    if not trusted:
        return warn(f"no key is trusted{more}", "ambientctl peers trust KEY")
    seen = [peer for peer in trusted if _is_recent(peer, now)]
    text = f"{len(trusted)} trusted, {len(seen)} seen in 5 min{more}"
    if view.reason and not view.listening and view.reason != "peers.listen is not set":
        return warn(f"{text}; {printable(view.reason)}", "ambientctl check-config")
    if len(seen) < len(trusted):
        away = next(peer for peer in trusted if peer not in seen)
        return warn(f"{text}; {name_of(away)} is away", "ambientctl peers --wide")
    return good(text)


def judge_offsets(view: PeersView, found: Finding) -> Finding:
    """The verdict on the clock, held against the peers' clocks as their last snapshots showed them."""
    told = [peer for peer in view.peers if peer.trusted and peer.clock_offset_ms is not None]
    if found.result != "ok" or not told:
        return found
    worst = max(told, key=lambda peer: abs(peer.clock_offset_ms or 0))
    offset = worst.clock_offset_ms or 0
    if abs(offset) < CLOCK_APART_MS:
        return good(f"within {CLOCK_APART_MS // 1000} s of {len(told)} peer{'s' if len(told) > 1 else ''}")
    seconds = abs(offset) / 1000
    apart = f"{seconds:.1f} s" if seconds < 60 else age(seconds)
    side = "behind" if offset > 0 else "ahead of"
    return warn(f"{apart} {side} {name_of(worst)}; {ALLOWED_AHEAD}", "timedatectl set-ntp true")


def name_of(peer: PeerView) -> str:
    """What the operator calls a peer, else what it calls itself, else its key's beginning."""
    return printable(peer.called or peer.name or peer.key[:16])[:_NAME_MAX]


def _is_recent(peer: PeerView, now: datetime) -> bool:
    if peer.state == LINKED:
        return True
    try:
        return peer.seen_at is not None and now - parse_rfc3339(peer.seen_at) <= LATELY
    except ValueError:
        return False
