"""Trusted peers, how far senders have counted, and when peers were seen, in SQLite."""

from collections.abc import Sequence
from datetime import datetime

import apsw
import msgspec

from ambientd.core.ed25519 import parse_key, show_key
from ambientd.core.peerbook import PeerSeen, TrustedPeer
from ambientd.core.peers.floors import Floors, LineFloor, SendLine, SignerFloor, merged
from ambientd.core.signeditem import SignedItem
from ambientd.core.timefmt import parse_rfc3339, rfc3339_ms
from ambientd.store.faults import constraints, text, whole

_TRUST = (
    "INSERT INTO peer_trust (key, name, added_at, added_by) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET name = excluded.name"
)
_FLOOR = (
    "INSERT INTO peer_floors (key, version, since_ms, lines_json) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET version = excluded.version, since_ms = excluded.since_ms,"
    " lines_json = excluded.lines_json"
)
_SELF = (
    "INSERT INTO peer_self (id, since_ms, line, next_sequence) VALUES (1, ?, ?, ?)"
    " ON CONFLICT (id) DO UPDATE SET line = excluded.line, next_sequence = excluded.next_sequence"
)
_SEEN = (
    "INSERT INTO peer_seen (key, name, address, seen_at, synced_at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET name = excluded.name, address = excluded.address,"
    " seen_at = excluded.seen_at, synced_at = coalesce(excluded.synced_at, synced_at)"
)
_lines = msgspec.json.Decoder(tuple[tuple[str, int, int], ...])


class SqlitePeers:
    """`ports.store.PeerRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    # --- trust

    def trusted(self) -> list[TrustedPeer]:
        """Keys that the operator trusted, oldest first."""
        rows = self._connection.execute(
            "SELECT key, name, added_at, added_by FROM peer_trust ORDER BY added_at, key"
        )
        return [
            TrustedPeer(key=key, name=name, added_at=parse_rfc3339(at), added_by=by)
            for key, name, at, by in rows
        ]

    def trust(self, peer: TrustedPeer) -> None:
        """Adds a key, or gives it another name; raises ValueError for what cannot be stored."""
        row = (text(peer.key, "key"), text(peer.name, "name"), rfc3339_ms(peer.added_at), peer.added_by)
        with constraints("trusted peer"):
            self._connection.execute(_TRUST, row)
        self._connection.execute("DELETE FROM peer_distrust WHERE key = ?", row[:1])

    def untrust(self, key: str) -> bool:
        """Removes a key, and when it was seen; its floor stays. Whether it was there."""
        self._connection.execute("DELETE FROM peer_seen WHERE key = ?", (key,))
        self._connection.execute("DELETE FROM peer_trust WHERE key = ?", (key,))
        return bool(self._connection.changes())

    def distrusted(self) -> list[str]:
        """Keys that no roster makes trusted."""
        return [str(key) for (key,) in self._connection.execute("SELECT key FROM peer_distrust ORDER BY key")]

    def distrust(self, key: str, *, at: datetime, by: str) -> None:
        """No roster makes this key trusted, until it is trusted by name again."""
        with constraints("distrusted peer"):
            self._connection.execute(
                "INSERT INTO peer_distrust (key, added_at, added_by) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (text(key, "key"), rfc3339_ms(at), by),
            )

    # --- the roster

    def roster(self) -> SignedItem | None:
        """The newest roster that was taken."""
        row = self._connection.execute("SELECT body, issuer, signature FROM peer_roster").fetchone()
        return None if row is None else SignedItem(*map(bytes, row))

    def put_roster(self, item: SignedItem, revision: int, *, at: datetime) -> None:
        """Takes the place of the one before."""
        row = (whole(revision, "revision"), item.body, item.issuer, item.signature, rfc3339_ms(at))
        with constraints("roster"):
            self._connection.execute(
                "INSERT OR REPLACE INTO peer_roster (id, revision, body, issuer, signature, taken_at)"
                " VALUES (1, ?, ?, ?, ?, ?)",
                row,
            )

    def drop_roster(self) -> bool:
        """Forgets it; whether there was one."""
        self._connection.execute("DELETE FROM peer_roster")
        return bool(self._connection.changes())

    # --- floors

    def floors(self) -> Floors | None:
        """What must not be taken again; None before `begin`."""
        begun = self._connection.execute("SELECT since_ms FROM peer_self").get
        if begun is None:
            return None
        rows = self._connection.execute("SELECT key, version, since_ms, lines_json FROM peer_floors")
        found = ((parse_key(row[0]), row) for row in rows)
        return Floors(int(begun), {key: _floor(row) for key, row in found if key is not None})

    def raise_floor(self, signer: bytes, floor: SignerFloor) -> None:
        """Writes a sender's floor; never below what is written already."""
        key = show_key(signer)
        row = self._connection.execute(
            "SELECT key, version, since_ms, lines_json FROM peer_floors WHERE key = ?", (key,)
        ).fetchone()
        kept = floor if row is None else merged(_floor(row), floor)
        lines = [[line.line, line.sequence, line.issued_at] for line in kept.lines]
        written = (
            key,
            whole(kept.version, "version"),
            whole(kept.since, "since"),
            msgspec.json.encode(lines).decode(),
        )
        with constraints("peer floor"):
            self._connection.execute(_FLOOR, written)

    def forget_floors(self, keys: Sequence[bytes]) -> None:
        """Drops what is remembered of these senders."""
        self._connection.executemany(
            "DELETE FROM peer_floors WHERE key = ?", [(show_key(key),) for key in keys]
        )

    # --- this node's own line

    def own_line(self) -> SendLine | None:
        """The line that this node counts on, with the first number that was never used; None before
        `begin`."""
        row = self._connection.execute("SELECT line, next_sequence FROM peer_self").fetchone()
        return None if row is None else SendLine(row[0], row[1])

    def begin(self, line: SendLine, since: int) -> None:
        """Writes the own line. `since` (ms since the epoch) counts the first time only."""
        row = (whole(since, "since"), text(line.line, "line"), whole(line.next, "next"))
        with constraints("own line"):
            self._connection.execute(_SELF, row)

    # --- seen

    def seen(self) -> list[PeerSeen]:
        """When peers were last there."""
        rows = self._connection.execute("SELECT key, name, address, seen_at, synced_at FROM peer_seen")
        return [
            PeerSeen(
                key=key,
                name=name,
                address=address,
                seen_at=parse_rfc3339(seen) if seen else None,
                synced_at=parse_rfc3339(synced) if synced else None,
            )
            for key, name, address, seen, synced in rows
        ]

    def put_seen(self, peer: PeerSeen) -> None:
        """Replaces what is known of a peer; a comparison is remembered until the next."""
        row = (
            text(peer.key, "key"),
            text(peer.name, "name"),
            text(peer.address, "address"),
            rfc3339_ms(peer.seen_at) if peer.seen_at else None,
            rfc3339_ms(peer.synced_at) if peer.synced_at else None,
        )
        with constraints("peer"):
            self._connection.execute(_SEEN, row)


def _floor(row: Sequence[object]) -> SignerFloor:
    _, version, since, lines = row
    return SignerFloor(
        int(str(version)),
        int(str(since)),
        tuple(LineFloor(*line) for line in _lines.decode(str(lines))),
    )
