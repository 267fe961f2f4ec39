"""Signed policies and tombstones in SQLite."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import apsw
import msgspec

from ambientd.core.policy import LIFE_MAX_MS, TOMBSTONE, Policy, parse_body, patterns_of
from ambientd.core.policymerge import Entry, Known, Way
from ambientd.core.policyrecords import PolicyQuery, PolicyRecord, PolicyTotals
from ambientd.core.signeditem import SignedItem
from ambientd.store.faults import constraints, text

_COLUMNS = (
    "item_id, policy_id, kind, revision, in_force, not_after, issued_at, issuer, body, signature,"
    " way, sender, received_at"
)
_INSERT = (
    f"INSERT INTO policy_items ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
    # What was held may be brought again by somebody whose word puts it in force.
    " ON CONFLICT (item_id) DO UPDATE SET in_force = excluded.in_force, way = excluded.way,"
    " sender = excluded.sender, received_at = excluded.received_at"
)
_TRUSTED = "hex(issuer) IN (SELECT value FROM json_each(:issuers))"
_AMONG = "policy_id IN (SELECT value FROM json_each(:ids))"
_KNOWN = (
    "SELECT policy_id, item_id, kind, revision, in_force, not_after FROM policy_items"  # noqa: S608 - constants
    f" WHERE {_AMONG} AND {_TRUSTED}"
)
_FLOORS = (
    "SELECT policy_id, max(revision), max(removed), max(keep_until) FROM policy_floors"  # noqa: S608 - constants
    f" WHERE {_AMONG} AND {_TRUSTED} GROUP BY policy_id"
)
_FLOOR = (
    "INSERT INTO policy_floors (policy_id, issuer, revision, removed, keep_until) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (policy_id, issuer) DO UPDATE SET revision = max(revision, excluded.revision),"
    " removed = max(removed, excluded.removed), keep_until = max(keep_until, excluded.keep_until)"
)
# The highest item of each policy is the held one, where there is one.
_EXPOSED = (
    "SELECT item_id, not_after FROM policy_items AS this"  # noqa: S608 - constants
    f" WHERE {_TRUSTED} AND (in_force = 0 OR NOT EXISTS (SELECT 1 FROM policy_items AS other"
    " WHERE other.policy_id = this.policy_id AND other.in_force = 0"
    " AND hex(other.issuer) IN (SELECT value FROM json_each(:issuers))))"
    " ORDER BY not_after"
)
_GET = (
    f"SELECT {_COLUMNS} FROM policy_items WHERE {_AMONG} AND {_TRUSTED}"  # noqa: S608 - constants
    " ORDER BY policy_id, in_force DESC"
)
_STATES = {
    "all": "",
    "in_force": " AND in_force = 1 AND kind = 'policy'",
    "removed": " AND in_force = 1 AND kind = 'tombstone'",
    "held": " AND in_force = 0",
}
_CANDIDATES = (
    "SELECT body FROM policy_items WHERE in_force = 1 AND kind = 'policy'"  # noqa: S608 - constants
    f" AND {_TRUSTED} AND policy_id IN (SELECT policy_id FROM policy_hosts"
    " WHERE host IN (SELECT value FROM json_each(:hosts))) ORDER BY policy_id"
)
_ONE = (
    "SELECT body FROM policy_items WHERE in_force = 1 AND kind = 'policy'"  # noqa: S608 - constants
    f" AND {_TRUSTED} AND policy_id = :policy_id"
)
_TOTALS = (
    "SELECT coalesce(sum(in_force = 1 AND kind = 'policy'), 0),"  # noqa: S608 - constants
    " coalesce(sum(in_force = 1 AND kind = 'tombstone'), 0), coalesce(sum(in_force = 0), 0),"
    " coalesce(max(iif(in_force = 1 AND kind = 'policy', revision, 0)), 0),"
    " min(iif(in_force = 1 AND kind = 'policy', not_after, NULL)),"
    " (SELECT min(not_after) FROM policy_items)"
    f" FROM policy_items WHERE {_TRUSTED} AND not_after > :now"
)


def _json(values: Collection[str]) -> str:
    return msgspec.json.encode(list(values)).decode()


def _hex(issuers: Collection[bytes]) -> str:
    return _json([issuer.hex().upper() for issuer in issuers])


class SqlitePolicies:
    """`ports.policies.PolicyRepository` over one transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        """The connection belongs to one transaction."""
        self._connection = connection

    def known(self, policy_ids: Sequence[str], issuers: Collection[bytes]) -> dict[str, Known]:
        """What is known of these ids; ids of which nothing is are left out."""
        bindings = {"ids": _json(policy_ids), "issuers": _hex(issuers)}
        found: dict[str, dict[str, Any]] = {}
        for policy_id, floor, removed, until in self._connection.execute(_FLOORS, bindings):
            found[policy_id] = {"floor": floor, "removed": removed, "floor_until": until}
        for policy_id, item_id, kind, revision, in_force, not_after in self._connection.execute(
            _KNOWN, bindings
        ):
            entry = Entry(
                item_id=item_id, is_tombstone=kind == TOMBSTONE, revision=revision, not_after=not_after
            )
            found.setdefault(policy_id, {})["in_force" if in_force else "held"] = entry
        return {policy_id: Known(**facts) for policy_id, facts in found.items()}

    def save(self, policy_id: str, known: Known, new: Sequence[PolicyRecord]) -> None:
        """Keeps new items and makes the items of an id what `known` says; all others of it go."""
        in_force = None if known.in_force is None else known.in_force.item_id
        held = None if known.held is None else known.held.item_id
        run = self._connection.execute
        with constraints(f"policy {policy_id}"):
            run(
                "DELETE FROM policy_items WHERE policy_id = ? AND item_id IS NOT ? AND item_id IS NOT ?",
                (policy_id, in_force, held),
            )
            if in_force is not None:
                run("UPDATE policy_items SET in_force = 1 WHERE item_id = ?", (in_force,))
            for record in new:
                self._note_floor(record)
                if record.item_id in (in_force, held):
                    run(_INSERT, _row(record, in_force=record.item_id == in_force))
        self._index(policy_id, in_force)

    def _note_floor(self, record: PolicyRecord) -> None:
        removed = record.revision if record.kind == TOMBSTONE else 0
        until = max(record.not_after, record.issued_at + LIFE_MAX_MS)
        row = (record.policy_id, record.item.issuer, record.revision, removed, until)
        self._connection.execute(_FLOOR, row)

    def _index(self, policy_id: str, in_force: bytes | None) -> None:
        self._connection.execute("DELETE FROM policy_hosts WHERE policy_id = ?", (policy_id,))
        body = self._connection.execute("SELECT body FROM policy_items WHERE item_id = ?", (in_force,)).get
        content = None if body is None else parse_body(body)
        if isinstance(content, Policy):
            hosts = {pattern.host for pattern in patterns_of(content)}
            self._connection.executemany(
                "INSERT INTO policy_hosts (host, policy_id) VALUES (?, ?)",
                ((host, policy_id) for host in sorted(hosts)),
            )

    def exposed(self, issuers: Collection[bytes]) -> Iterator[tuple[bytes, int]]:
        """Id and expiry (ms) of the highest item of each policy, the first to expire first."""
        yield from self._connection.execute(_EXPOSED, {"issuers": _hex(issuers)})

    def items(self, item_ids: Sequence[bytes]) -> list[SignedItem]:
        """These items, in their order, without those that are gone."""
        found = []
        for item_id in item_ids:
            row = self._connection.execute(
                "SELECT body, issuer, signature FROM policy_items WHERE item_id = ?", (item_id,)
            ).fetchone()
            if row is not None:
                found.append(SignedItem(*row))
        return found

    def get(self, policy_id: str, issuers: Collection[bytes]) -> list[PolicyRecord]:
        """The items of one policy, the one in force first."""
        bindings = {"ids": _json([policy_id]), "issuers": _hex(issuers)}
        return [_record(row) for row in self._connection.execute(_GET, bindings)]

    def page(self, query: PolicyQuery, issuers: Collection[bytes]) -> list[list[PolicyRecord]]:
        """Policies by id, each as `get` gives it; raises KeyError for a state that is none."""
        sql = (
            f"SELECT DISTINCT policy_id FROM policy_items WHERE policy_id > :after{_STATES[query.state]}"  # noqa: S608 - constants
            f" AND {_TRUSTED} AND instr(policy_id, :text) > 0 ORDER BY policy_id LIMIT :limit"
        )
        trusted = _hex(issuers)
        bindings = {"after": query.after, "text": query.text, "limit": query.limit, "issuers": trusted}
        names = [str(policy_id) for (policy_id,) in self._connection.execute(sql, bindings)]
        found: dict[str, list[PolicyRecord]] = {name: [] for name in names}
        for row in self._connection.execute(_GET, {"ids": _json(names), "issuers": trusted}):
            record = _record(row)
            found[record.policy_id].append(record)
        return list(found.values())

    def candidates(
        self, hosts: Sequence[str], issuers: Collection[bytes], policy_id: str | None = None
    ) -> Iterator[bytes]:
        """Bodies of the policies in force that name one of these hosts, or of the one policy."""
        if policy_id is not None:
            rows = self._connection.execute(_ONE, {"policy_id": policy_id, "issuers": _hex(issuers)})
        else:
            rows = self._connection.execute(_CANDIDATES, {"hosts": _json(hosts), "issuers": _hex(issuers)})
        for (body,) in rows:
            yield bytes(body)

    def due(self, now: int, limit: int) -> list[str]:
        """Policies with something that has expired by an instant (ms)."""
        sql = "SELECT DISTINCT policy_id FROM policy_items WHERE not_after <= ? ORDER BY not_after LIMIT ?"
        return [str(policy_id) for (policy_id,) in self._connection.execute(sql, (now, limit))]

    def forget(self, now: int) -> int:
        """Drops what was remembered of revisions that cannot be valid any more; how many."""
        self._connection.execute("DELETE FROM policy_floors WHERE keep_until <= ?", (now,))
        return self._connection.changes()

    def count(self) -> int:
        """How many items are kept, whoever signed them."""
        return int(self._connection.execute("SELECT count(*) FROM policy_items").get)

    def totals(self, issuers: Collection[bytes], now: int) -> PolicyTotals:
        """Figures over everything that is kept."""
        bindings = {"issuers": _hex(issuers), "now": now}
        found: tuple[Any, ...] = self._connection.execute(_TOTALS, bindings).fetchall()[0]
        policies, tombstones, held, revision, soon, next_expiry = found
        untrusted = self._connection.execute(
            f"SELECT count(*) FROM policy_items WHERE NOT {_TRUSTED}",  # noqa: S608 - constants
            {"issuers": bindings["issuers"]},
        ).get
        return PolicyTotals(
            policies=policies,
            tombstones=tombstones,
            held=held,
            revision=revision,
            soon=soon,
            next_expiry=next_expiry,
            untrusted=int(untrusted),
        )


def _row(record: PolicyRecord, *, in_force: bool) -> tuple[Any, ...]:
    item = record.item
    return (
        record.item_id,
        text(record.policy_id, "policy_id"),
        record.kind,
        record.revision,
        int(in_force),
        record.not_after,
        record.issued_at,
        item.issuer,
        item.body,
        item.signature,
        record.way.value,
        text(record.sender, "sender"),
        record.received_at,
    )


def _record(row: tuple[Any, ...]) -> PolicyRecord:
    return PolicyRecord(
        item_id=row[0],
        policy_id=row[1],
        kind=row[2],
        revision=row[3],
        in_force=bool(row[4]),
        not_after=row[5],
        issued_at=row[6],
        item=SignedItem(row[8], row[7], row[9]),
        way=Way(row[10]),
        sender=row[11],
        received_at=row[12],
    )
