"""`/api/v3/analytics`: usage over time and by whom, and how well the models do."""

from ambientd.api.router import Answer, QueryParameter, Route
from ambientd.flows.analytics import Analytics, performance, usage
from ambientd.ports.http import Request
from ambientd.wire.analytics_messages import MatrixAnswer, UsageAnswer
from ambientd.wire.enums import MatrixSplit, UsageGroup
from ambientd.wire.routes import ANALYTICS_PERFORMANCE, ANALYTICS_USAGE

MIN_SAMPLE_MAX = 1_000_000


def _text(name: str, doc: str) -> QueryParameter:
    return QueryParameter(name=name, doc=doc)


_RANGE = (
    _text("from", "Sessions that started at or after this RFC 3339 instant or day."),
    _text("to", "Sessions that started before this RFC 3339 instant or day."),
    _text("agent", "Only this agent id."),
    _text("task", "Only this task category; empty for sessions without one."),
)
USAGE_QUERY = (
    *_RANGE,
    _text("model", "Only this model id."),
    QueryParameter(
        name="groupBy",
        doc="What the series is split by [day].",
        choices=tuple(item.value for item in UsageGroup),
    ),
    _text("tz", "IANA zone of days and weeks [UTC]. In another one they are added up from the sessions."),
)
PERFORMANCE_QUERY = (
    *_RANGE,
    QueryParameter(
        name="splitBy",
        doc="What else rows are split by [none].",
        choices=tuple(item.value for item in MatrixSplit),
    ),
    QueryParameter(
        name="minSample",
        doc="Fewer runs than this make a warning [5].",
        kind="integer",
        minimum=1,
        maximum=MIN_SAMPLE_MAX,
    ),
)


def analytics_routes(analytics: Analytics) -> tuple[Route, ...]:
    """Usage and performance."""

    async def ask_usage(request: Request) -> Answer:
        return await usage(analytics, request.query)

    async def ask_performance(request: Request) -> Answer:
        return await performance(analytics, request.query)

    return (
        Route(
            method="GET",
            path=ANALYTICS_USAGE,
            handler=ask_usage,
            summary="Runs, tokens, runtime and cost of ended sessions, over time or by whom.",
            query=USAGE_QUERY,
            answers={200: UsageAnswer},
        ),
        Route(
            method="GET",
            path=ANALYTICS_PERFORMANCE,
            handler=ask_performance,
            summary="How well each model did: outcomes, medians, percentiles.",
            query=PERFORMANCE_QUERY,
            answers={200: MatrixAnswer},
        ),
    )
