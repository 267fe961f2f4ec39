"""Health, statistics of the cluster, and what administrators see."""

from collections.abc import Callable
from datetime import datetime

from ambientd.api.fleet.nodes import LIMIT
from ambientd.api.fleet.principal import Person, for_admins
from ambientd.api.fleet.streams import view_audit
from ambientd.api.router import Access, Answer, QueryParameter, Route
from ambientd.core.fleet.records import UserRecord
from ambientd.core.timefmt import rfc3339_ms
from ambientd.flows.fleet.admin import Admin
from ambientd.flows.fleet.nodes import Registry
from ambientd.ports.http import Request
from ambientd.wire.fleet_api_messages import ClusterStatsAnswer, HealthAnswer, UsersAnswer, UserView
from ambientd.wire.fleet_push_messages import AuditPush

HEALTH = "/api/v1/health"


def cluster_routes(
    registry: Registry, admin: Admin, *, now: Callable[[], datetime], version: str
) -> tuple[Route, ...]:
    """All of them; health alone is open."""

    async def health(_request: Request) -> Answer:
        return HealthAnswer("healthy", version, rfc3339_ms(now()))

    async def stats(_request: Request) -> Answer:
        found = await registry.stats()
        nodes, tasks = found.nodes, found.tasks
        return ClusterStatsAnswer(
            total_nodes=nodes.total,
            online_nodes=nodes.online,
            healthy_nodes=nodes.healthy,
            total_tasks=tasks.total,
            completed_tasks=tasks.completed,
            failed_tasks=tasks.failed,
            avg_health_score=nodes.average_health,
            total_compute_capacity=nodes.capacity,
        )

    return (
        Route(
            method="GET",
            path=HEALTH,
            handler=health,
            summary="Healthy, once the database is ready.",
            access=Access.OPEN,
            answers={200: HealthAnswer},
        ),
        Route(
            method="GET",
            path="/api/v1/cluster/stats",
            handler=stats,
            summary="Sums over all nodes and tasks.",
            answers={200: ClusterStatsAnswer},
        ),
        *_admin_routes(admin),
    )


def _admin_routes(admin: Admin) -> tuple[Route, ...]:
    async def users(_person: Person, request: Request) -> Answer:
        limit = int(request.query.get("limit", "100"))
        rows = await admin.users(limit, request.query.get("after"))
        following = rows[-1].username if len(rows) == limit else None
        return UsersAnswer([_view_user(row) for row in rows], following)

    async def audit(_person: Person, request: Request) -> Answer:
        after, limit = int(request.query.get("after", "0")), int(request.query.get("limit", "100"))
        return AuditPush([view_audit(row) for row in await admin.audit(after, limit)])

    return (
        Route(
            method="GET",
            path="/api/v1/admin/users",
            handler=for_admins(users),
            summary="Accounts, by name; administrators only.",
            query=(LIMIT, QueryParameter(name="after", doc="`next` of the page before.")),
            answers={200: UsersAnswer},
            refusals=(403,),
        ),
        Route(
            method="GET",
            path="/api/v1/admin/audit-log",
            handler=for_admins(audit),
            summary="The control plane's own chain of control actions; administrators only.",
            query=(
                LIMIT,
                QueryParameter(name="after", doc="Records behind this number.", kind="integer", minimum=0),
            ),
            answers={200: AuditPush},
            refusals=(403,),
        ),
    )


def _view_user(row: UserRecord) -> UserView:
    return UserView(
        user_id=row.user_id,
        username=row.username,
        role=row.role,
        email=row.email,
        created_at=rfc3339_ms(row.created_at),
        last_login=None if row.last_login is None else rfc3339_ms(row.last_login),
    )
