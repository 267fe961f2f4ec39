"""The control plane's store, as its flows see it: repositories inside one transaction.

`FleetStore.write` runs a plain function against a `FleetTransaction`, off the event loop. The call returns
after the commit is durable, or raises with nothing written (but see UnavailableError below). The function may
be run more than once, when the database gave the transaction up: it must not change anything but through the
transaction, and must not keep what it saw.

All methods raise ValueError for values that cannot be stored (NUL, lone surrogates, past 64 bits, a broken
check). Who may see what is decided by the caller; methods that take an `owner_id` see only what is theirs.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from ambientd.core.fleet.assign import Candidate
from ambientd.core.fleet.records import (
    AccessTokenRecord,
    ApiKeyRecord,
    AssignmentRecord,
    AwayAssignment,
    Caller,
    ConnectSession,
    DeletedTask,
    Device,
    DeviceCredential,
    HistoryRow,
    JoinTokenRecord,
    NewNode,
    NewTask,
    NodeEvent,
    NodeQuery,
    NodeRecord,
    NodeReport,
    NodeStats,
    Pruned,
    QuietNode,
    RefreshTokenRecord,
    ReportOutcome,
    StatusChange,
    TaskQuery,
    TaskRecord,
    TaskStats,
    TaskWork,
    UserRecord,
)
from ambientd.core.fleet.timelimit import LatePart
from ambientd.ports.fleet.pushed import (
    ControlAuditRepository,
    ItemRepository,
    NodeAuditRepository,
    NodeLedgerRepository,
    StreamRepository,
)
from ambientd.ports.fleet.throttle import ThrottleRepository
from ambientd.wire.fleet_enums import ConnectStatus, DetachReason, ExecutionStatus, NodeType, Role, TaskStatus

T = TypeVar("T")


class UserRepository(Protocol):
    """Accounts and API keys."""

    def add(self, user: UserRecord, password_hash: str | None) -> bool:
        """False, and nothing written, when the user name is taken."""

    def get(self, user_id: str) -> UserRecord | None:
        """One account by its id."""

    def by_name(self, username: str) -> UserRecord | None:
        """One account by its name, exactly."""

    def page(self, limit: int, after: str | None = None) -> list[UserRecord]:
        """Accounts by user name."""

    def password_hash(self, user_id: str) -> str | None:
        """The stored hash; None for an account without a password, or no account."""

    def set_password(self, user_id: str, password_hash: str) -> bool:
        """False when there is no such account."""

    def set_role(self, user_id: str, role: Role) -> bool:
        """False when there is no such account."""

    def note_login(self, user_id: str, at: datetime) -> None:
        """Remembers when somebody last logged in with a password."""

    def add_key(self, key: ApiKeyRecord, key_hash: bytes) -> None:
        """Adds an API key."""

    def keys(self, user_id: str) -> list[ApiKeyRecord]:
        """A user's keys, oldest first, revoked ones too."""

    def caller_of_key(self, key_hash: bytes) -> tuple[str, Caller] | None:
        """The key's id and who it stands for, also when it is revoked or has expired."""

    def note_key_used(self, key_id: str, at: datetime) -> None:
        """Remembers the use of a key; never an earlier one than is known."""

    def revoke_key(self, user_id: str, key_id: str, at: datetime) -> bool:
        """False when the user has no such key that is still good."""

    def revoke_keys(self, user_id: str, at: datetime) -> int:
        """Revokes all of a user's keys that were not; how many."""


class TokenRepository(Protocol):
    """Access and refresh tokens."""

    def add_access(self, token: AccessTokenRecord) -> None:
        """Adds an access token."""

    def caller_of_access(self, token_hash: bytes) -> Caller | None:
        """Who an access token stands for, also when it has expired; None when unknown or revoked."""

    def add_refresh(self, token: RefreshTokenRecord) -> None:
        """Adds a refresh token; with a parent, `succeed` is to be called as well."""

    def refresh(self, token_hash: bytes) -> RefreshTokenRecord | None:
        """A refresh token as it stands. In a write its row is locked until the end of the transaction."""

    def succeed(self, token_hash: bytes, successor_hash: bytes, at: datetime) -> None:
        """Marks a token as used (the first use stands) and names its latest successor."""

    def revoke_refresh(self, token_hash: bytes, at: datetime, reason: str) -> bool:
        """False when it is unknown or was revoked before."""

    def revoke_family(self, family_id: str, at: datetime, reason: str) -> int:
        """Revokes all refresh tokens of a family and removes its access tokens; how many refresh tokens."""

    def revoke_user(self, user_id: str, at: datetime, reason: str) -> int:
        """The same for all families of a user."""

    def remove_expired(self, before: datetime, limit: int) -> int:
        """Removes tokens that expired before an instant; how many went."""


class DeviceRepository(Protocol):
    """Join tokens, and the credentials of joined nodes."""

    def add_join(self, token: JoinTokenRecord) -> None:
        """Adds a join token."""

    def joins(self, owner_id: str) -> list[JoinTokenRecord]:
        """An owner's join tokens, newest first."""

    def join(self, token_hash: bytes) -> JoinTokenRecord | None:
        """A join token as it stands."""

    def spend_join(self, token_hash: bytes, node_id: str, at: datetime) -> JoinTokenRecord | None:
        """Takes one use of a token that is good at that instant for that node; None when it is not."""

    def revoke_join(self, owner_id: str, token_id: str, at: datetime) -> bool:
        """False when the owner has no such token that is still good."""

    def add(self, credential: DeviceCredential) -> None:
        """Adds a credential. With another key than the node had until now, its streams begin anew (a new
        incarnation)."""

    def device(self, token_hash: bytes) -> Device | None:
        """A credential with its node, also when it is revoked."""

    def devices(self, token_hashes: Sequence[bytes]) -> dict[bytes, Device]:
        """Credentials with their nodes, also revoked ones, by their hashes; those that there are."""

    def credentials(self, node_id: str) -> list[DeviceCredential]:
        """A node's credentials, newest first."""

    def keys_of_owners(self) -> list[tuple[str, str, bytes]]:
        """Owner, node and key of every credential that is good, of nodes that are neither deleted nor
        rejected."""

    def advance(self, credential_id: str, seq: int) -> int | None:
        """Takes a request's number. None when it was taken; else the last one taken, which is not lower."""

    def remove(self, credential_id: str) -> None:
        """Removes a credential that was never used."""

    def revoke(self, node_id: str, at: datetime, *, keep: str | None = None) -> int:
        """Revokes all credentials of a node but one; how many."""


class NodeRepository(Protocol):
    """The registry."""

    def register(self, node: NewNode, at: datetime) -> NodeRecord | None:
        """Adds a node, or brings back or changes the owner's node of that id. A rejected one stays rejected
        unless it had been deleted. None, and nothing written, when the id is another owner's."""

    def get(self, node_id: str, *, owner_id: str | None = None) -> NodeRecord | None:
        """A node that is not deleted; with `owner_id` only when it is theirs."""

    def page(self, query: NodeQuery) -> list[NodeRecord]:
        """One page of nodes."""

    def delete(self, node_id: str, owner_id: str, at: datetime) -> bool:
        """Marks it as deleted and offline. False when the owner has no such node."""

    def reject(self, node_id: str, owner_id: str, at: datetime) -> bool:
        """Marks it as rejected. False when the owner has no such node."""

    def report(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Takes reports and writes a history row for each that is no duplicate; outcomes in their order."""

    def quiet(self, before: datetime, limit: int, after: str | None = None) -> list[QuietNode]:
        """Online and unknown nodes last seen before an instant, by id."""

    def change_status(self, changes: Sequence[StatusChange]) -> list[str]:
        """Ids of those that still stood as they were seen, and were changed."""

    def stats(self) -> NodeStats:
        """Sums for the cluster's statistics."""


class HistoryRepository(Protocol):
    """Reports and events of nodes."""

    def add_events(self, events: Sequence[NodeEvent]) -> str | None:
        """Writes events. When they cannot be written nothing of them is, the transaction goes on, and the
        reason is returned."""

    def activity(self, node_id: str, limit: int) -> list[NodeEvent]:
        """A node's events, newest first."""

    def rows(self, node_id: str, limit: int, before_id: int | None = None) -> list[HistoryRow]:
        """A node's history, newest first; `before_id`: the last `heartbeat_id` seen."""

    def remove(self, reports_before: datetime, events_before: datetime, limit: int, after: int = 0) -> Pruned:
        """Looks at up to `limit` of the oldest rows behind `after` and removes those that are due."""


class TaskRepository(Protocol):
    """Tasks: the cluster's units of work."""

    def add(self, task: NewTask) -> None:
        """Adds a pending task."""

    def get(self, task_id: str, *, creator_id: str | None = None) -> TaskRecord | None:
        """One task; with `creator_id` only when it is theirs."""

    def page(self, query: TaskQuery) -> list[TaskRecord]:
        """One page of tasks."""

    def open_of(self, creator_id: str) -> int:
        """How many of a creator's tasks have not ended."""

    def work(self, task_id: str) -> TaskWork | None:
        """Inputs and module of a task."""

    def work_size(self, task_id: str) -> int:
        """About how long they are, in characters; 0 when the task is gone."""

    def pending(
        self,
        limit: int,
        *,
        task_types: Sequence[str] | None = None,
        after: tuple[datetime, str] | None = None,
    ) -> list[TaskRecord]:
        """Tasks that nodes are missing for, oldest first; `after`: (created_at, task_id) of the last seen."""

    def set_status(self, task_id: str, status: TaskStatus, at: datetime) -> bool:
        """Moves a task between pending and running; False when it has ended or is gone."""

    def finish(
        self, task_id: str, status: TaskStatus, at: datetime, *, result: object, proof_id: str | None = None
    ) -> bool:
        """Ends a task; False, and nothing written, when it had ended or is gone."""

    def delete(self, task_id: str, at: datetime) -> DeletedTask | None:
        """Removes a task, leaving an event at every node that has or had it. None when there is none."""

    def stats(self) -> TaskStats:
        """Sums for the cluster's statistics."""


class AssignmentRepository(Protocol):
    """Which node has which task. Everything that changes it must call `lock` first."""

    def lock(self) -> None:
        """Nobody else changes assignments until the end of this transaction."""

    def candidates(
        self,
        node_type: NodeType,
        task_id: str,
        limit: int,
        after: tuple[datetime, str] | None = None,
        *,
        owner_id: str | None = None,
    ) -> list[Candidate]:
        """Online nodes of a type (or `any`; with `any` of every type) that do not have the task, oldest
        registration first.

        `after`: (registered_at, node_id) of the last one seen. With `owner_id` only theirs.
        """

    def candidate(self, node_id: str) -> Candidate | None:
        """One node, when it is online."""

    def attach(self, task_id: str, node_id: str, at: datetime) -> AssignmentRecord:
        """Gives a task to a node, also anew. It must not have it."""

    def reattach(self, task_id: str, node_id: str, at: datetime) -> bool:
        """Undoes the loss of a task that a node still runs; False when it never had it, or has it."""

    def detach(
        self,
        task_id: str,
        at: datetime,
        reason: DetachReason,
        *,
        nodes: Sequence[str] | None = None,
        execution: ExecutionStatus | None = None,
    ) -> list[str]:
        """Takes a task from some of its nodes or all; which had it. `execution` becomes their status unless
        they had ended it."""

    def get(self, task_id: str, node_id: str) -> AssignmentRecord | None:
        """One assignment, current or former."""

    def of_node(self, node_id: str, *, former: bool = False) -> list[AssignmentRecord]:
        """What a node has, oldest first; with `former` what it once had too."""

    def of_task(self, task_id: str) -> list[AssignmentRecord]:
        """All assignments of a task, current and former."""

    def note_execution(
        self,
        task_id: str,
        node_id: str,
        status: ExecutionStatus,
        at: datetime,
        *,
        session_id: str | None = None,
    ) -> bool:
        """How far a node is; False when it does not have the task."""

    def away(self, limit: int, after: tuple[str, str] = ("", "")) -> list[AwayAssignment]:
        """Current assignments of tasks that do not wait, on nodes that are not online, by (task, node)."""

    def late(self, now: datetime, limit: int, after: tuple[str, str] = ("", "")) -> list[LatePart]:
        """Parts of running tasks that go on although their time is over, on nodes that are online, by (node,
        task). What a node has not begun counts from when its task ran."""


class ConnectRepository(Protocol):
    """Connect sessions."""

    def start(self, session: ConnectSession) -> bool:
        """Adds a session, or begins the requester's own ended one of that id anew. False, and nothing
        written, when it is active, or its node has another active session."""

    def get(self, requester_id: str, session_id: str) -> ConnectSession | None:
        """A requester's session."""

    def by_token(self, token_hash: bytes) -> ConnectSession | None:
        """The session of a token."""

    def active_of_node(self, node_id: str) -> ConnectSession | None:
        """The active session of a node."""

    def active_of_task(self, task_id: str) -> list[ConnectSession]:
        """The active sessions of a task."""

    def beat(self, requester_id: str, session_id: str, at: datetime, *, node_id: str | None = None) -> bool:
        """Notes a sign of life, and another node when it was moved; False when it is not active."""

    def end(
        self, requester_id: str, session_id: str, status: ConnectStatus, at: datetime, reason: str
    ) -> bool:
        """Ends an active session; False when it is not active."""

    def due(self, now: datetime, limit: int) -> list[ConnectSession]:
        """Active sessions past their time, or whose node is deleted, rejected or offline."""


class FleetTransaction(Protocol):
    """All repositories over one transaction (or one consistent read)."""

    @property
    def users(self) -> UserRepository: ...
    @property
    def tokens(self) -> TokenRepository: ...
    @property
    def devices(self) -> DeviceRepository: ...
    @property
    def nodes(self) -> NodeRepository: ...
    @property
    def history(self) -> HistoryRepository: ...
    @property
    def tasks(self) -> TaskRepository: ...
    @property
    def assignments(self) -> AssignmentRepository: ...
    @property
    def sessions(self) -> ConnectRepository: ...
    @property
    def items(self) -> ItemRepository: ...
    @property
    def streams(self) -> StreamRepository: ...
    @property
    def ledger(self) -> NodeLedgerRepository: ...
    @property
    def node_audit(self) -> NodeAuditRepository: ...
    @property
    def audit(self) -> ControlAuditRepository: ...
    @property
    def throttle(self) -> ThrottleRepository: ...

    def try_sweep_lock(self, name: str) -> bool:
        """Whether this transaction alone may do a sweep, until its end. With one process always True."""


class FleetStoreFacts(Protocol):
    """What the control plane's status says about its store."""

    @property
    def ready(self) -> bool: ...
    @property
    def reason(self) -> str | None:
        """Why it is not ready."""

    @property
    def degraded(self) -> str | None:
        """Ready, but something is wrong; a sentence."""

    @property
    def schema_version(self) -> int: ...
    @property
    def engine(self) -> str:
        """`sqlite` or `postgresql`."""


class FleetStore(Protocol):
    """The one way to the control plane's database."""

    async def write(self, work: Callable[[FleetTransaction], T]) -> T:
        """Runs `work` in a durable transaction.

        Raises StoreError (not ready), StoreBusyError, StoreFullError, UnavailableError (the database is away,
        or too many wait); whatever `work` raises passes through. Nothing is written then, with one exception:
        when the connection is lost during the commit nobody can say, so UnavailableError means "ask again",
        and everything that is asked again must be idempotent. Cancelled while waiting: nothing is written;
        cancelled while committing: the commit is finished first.
        """

    async def read(self, work: Callable[[FleetTransaction], T]) -> T:
        """Runs `work` in a read-only snapshot; raises as `write`. Cancelled: the query is given up."""

    async def write_reports(self, reports: Sequence[NodeReport]) -> list[ReportOutcome]:
        """Takes many reports in one durable transaction of few statements; raises as `write`."""

    @property
    def reason(self) -> str | None:
        """Why it is not ready, at once: what every request asks first."""

    def facts(self) -> FleetStoreFacts:
        """The store's state, without waiting."""

    async def wait_settled(self) -> None:
        """Returns when the first attempt to open has ended, well or not: `facts` says which."""

    async def close(self) -> None:
        """Finishes what already waits and closes; `run` returns."""
