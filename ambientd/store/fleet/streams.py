"""How far the streams of nodes are durable here."""

from datetime import datetime

from ambientd.core.fleet.pushed import StreamPlace
from ambientd.core.timefmt import from_ms
from ambientd.store.fleet.sql import Sql, ms, one
from ambientd.wire.fleet_enums import Stream

# A place of an earlier incarnation of the node says nothing of its streams now.
_PLACE = (
    "SELECT acked_seq FROM node_streams WHERE node_id = ? AND stream = ?"
    " AND incarnation = (SELECT incarnation FROM nodes WHERE nodes.node_id = node_streams.node_id)"
)
_ADVANCE = (
    "INSERT INTO node_streams (node_id, stream, incarnation, acked_seq, updated_at)"
    " SELECT node_id, CAST(? AS TEXT), incarnation, CAST(? AS BIGINT), CAST(? AS BIGINT)"
    " FROM nodes WHERE node_id = ?"
    " ON CONFLICT (node_id, stream) DO UPDATE SET incarnation = excluded.incarnation,"
    " acked_seq = excluded.acked_seq, updated_at = excluded.updated_at"
    " WHERE node_streams.incarnation <> excluded.incarnation OR node_streams.acked_seq < excluded.acked_seq"
)
_ALL = (
    "SELECT s.stream, s.acked_seq, s.updated_at FROM node_streams AS s"
    " JOIN nodes AS n ON n.node_id = s.node_id AND n.incarnation = s.incarnation"
    " WHERE s.node_id = ? ORDER BY s.stream"
)


class Streams:
    """`ports.fleet.pushed.StreamRepository`."""

    def __init__(self, sql: Sql) -> None:
        """Good for as long as the transaction."""
        self._sql = sql

    def acked(self, node_id: str, stream: Stream) -> int:
        """The last number taken, 0 for none. In a write the place is locked until its end."""
        # The first batch of a stream has no row of its own yet: the name is locked instead.
        self._sql.serialize(f"stream:{node_id}:{stream}")
        row = one(self._sql.rows(_PLACE, (node_id, stream)))
        return 0 if row is None else int(row[0])

    def advance(self, node_id: str, stream: Stream, seq: int, at: datetime) -> int:
        """Remembers a number unless a higher one is remembered; returns the one that is."""
        self._sql.run(_ADVANCE, (stream, seq, ms(at), node_id))
        return self.acked(node_id, stream)

    def all_of(self, node_id: str) -> list[StreamPlace]:
        """All streams of a node."""
        return [
            StreamPlace(stream=Stream(row[0]), acked_seq=row[1], updated_at=from_ms(row[2]))
            for row in self._sql.rows(_ALL, (node_id,))
        ]
