"""All repositories of the control plane over one transaction of either database."""

from datetime import datetime

import apsw

from ambientd.store.fleet.assignments import Assignments
from ambientd.store.fleet.audit import ControlAudit, NodeAudits
from ambientd.store.fleet.connect import ConnectSessions
from ambientd.store.fleet.devices import Devices
from ambientd.store.fleet.history import History
from ambientd.store.fleet.items import Items
from ambientd.store.fleet.ledger import NodeLedger
from ambientd.store.fleet.nodes import Nodes
from ambientd.store.fleet.sql import Sql
from ambientd.store.fleet.sqlite_sql import SqliteSql
from ambientd.store.fleet.streams import Streams
from ambientd.store.fleet.tasks import Tasks
from ambientd.store.fleet.throttle import Throttles
from ambientd.store.fleet.tokens import Tokens
from ambientd.store.fleet.users import Users
from ambientd.store.kind import DatabaseKind


class FleetUnit:
    """`ports.fleet.store.FleetTransaction`; good for as long as the transaction around it."""

    def __init__(self, sql: Sql) -> None:
        """`sql` belongs to one transaction."""
        self.users = Users(sql)
        self.tokens = Tokens(sql)
        self.devices = Devices(sql)
        self.nodes = Nodes(sql)
        self.history = History(sql)
        self.tasks = Tasks(sql, self.history)
        self.assignments = Assignments(sql)
        self.sessions = ConnectSessions(sql)
        self.items = Items(sql)
        self.streams = Streams(sql)
        self.ledger = NodeLedger(sql)
        self.node_audit = NodeAudits(sql)
        self.audit = ControlAudit(sql)
        self.throttle = Throttles(sql)
        self._sql = sql

    def try_sweep_lock(self, name: str) -> bool:
        """Whether this transaction alone may do a sweep, until its end. With one process always True."""
        return self._sql.try_serialize(f"sweep:{name}")


def _begin(connection: apsw.Connection, _now: datetime) -> FleetUnit:
    return FleetUnit(SqliteSql(connection))


def _nothing(_of: object) -> None:
    """These repositories remember nothing, and their statements need no functions of ours."""


def _head(connection: apsw.Connection) -> int:
    return ControlAudit(SqliteSql(connection)).head().seq


SQLITE_FLEET = DatabaseKind(
    migrations="control_plane/sqlite",
    prepare=_nothing,
    begin=_begin,
    undone=_nothing,
    finish=_nothing,
    head=_head,
    appended=lambda unit: unit.audit.appended,
)
