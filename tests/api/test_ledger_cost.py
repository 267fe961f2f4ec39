"""What a question costs hardly grows with the ledger: ten thousand sessions against a hundred, in one run."""

import statistics
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from ambientd.api.alerts import Alerts, alert_routes
from ambientd.api.analytics import analytics_routes
from ambientd.api.ledger import Ledger, ledger_routes
from ambientd.api.router import build_application
from ambientd.core.alertrules import AlertRule
from ambientd.flows.alerts import Alerting, sweep
from ambientd.flows.analytics import Analytics
from ambientd.host.zones import find_zone
from ambientd.ports.store import Transaction
from ambientd.services.alerts import AlertsService
from ambientd.services.bell import Bell
from ambientd.services.news import NewsBoard
from ambientd.wire.enums import AlertMetric, AlertWindow
from tests.api.ingestkit import ARRIVAL, Ingest, ingesting
from tests.fakes.log import ListLog
from tests.store.usagekit import ended

SMALL, LARGE = 100, 10_000
ROUNDS = 15
QUESTIONS = (
    "/api/v3/ledger?limit=50",
    "/api/v3/ledger/ses-000007",
    "/api/v3/analytics/usage",
    "/api/v3/analytics/performance",
    "/api/v3/alerts/active",
)


async def fill(ingest: Ingest, count: int) -> None:
    """Sessions of two weeks, the newest first, a rule over them, and the routes."""

    def work(tx: Transaction) -> None:
        step = timedelta(days=14) / count
        for number in range(count):
            ended(
                tx,
                f"ses-{number:06}",
                at=ARRIVAL - number * step,
                agent=f"a{number % 10}",
                model=f"m{number % 5}",
                status="failed" if number % 3 == 0 else "success",
                runtime_ms=number % 1000,
                cost_usd=0.1,
                title=f"task {number}",
            )
        tx.alerts.put_rule(
            AlertRule(
                rule_id="r-1",
                metric=AlertMetric.FAILURE_RATE,
                warn_threshold=0.1,
                critical_threshold=0.9,
                window=AlertWindow.WEEK,
                created_at=ARRIVAL,
                updated_at=ARRIVAL,
            )
        )

    store, clock = ingest.real_store, ingest.clock
    await store.write(work)
    alerting = Alerting(
        store=store,
        clock=clock,
        gauges={},
        notifiers=(),
        node="node-1",
        new_id=lambda: "n-1",
        woken=lambda: None,
    )
    assert (await sweep(alerting)).told == 1
    service = AlertsService(alerting=alerting, notifiers={}, bell=Bell(), sweep_interval=300.0, log=ListLog())
    ledger = Ledger(store=store, news=NewsBoard(), clock=clock, monotonic=time.perf_counter)
    analytics = Analytics(store=store, clock=clock, find_zone=find_zone)
    alerts = Alerts(alerting=alerting, trials=service, audited=lambda **_: None)
    ingest.application = build_application(
        (*ledger_routes(ledger), *analytics_routes(analytics), *alert_routes(alerts)),
        readiness=lambda: None,
        log=ingest.log,
        admin_group="ambient-admin",
    )


async def cost(ingest: Ingest, question: str) -> float:
    began = time.perf_counter()
    answer = await ingest.ask("GET", question)
    took = time.perf_counter() - began
    assert answer.status == 200, answer
    return took


async def test_the_usual_questions_cost_at_most_twice_as_much_of_a_hundred_times_the_sessions(
    tmp_path: Path,
) -> None:
    taken: dict[int, dict[str, list[float]]] = {count: {q: [] for q in QUESTIONS} for count in (SMALL, LARGE)}
    async with AsyncExitStack() as stack:
        ledgers = {}
        for count in taken:
            (tmp_path / str(count)).mkdir()
            ledgers[count] = await stack.enter_async_context(ingesting(tmp_path / str(count)))
            await fill(ledgers[count], count)
        for _ in range(ROUNDS):  # side by side, so that a noisy machine is noisy for both
            for question in QUESTIONS:
                for count, ingest in ledgers.items():
                    taken[count][question].append(await cost(ingest, question))
    typical = {
        count: statistics.median(took for times in found.values() for took in times)
        for count, found in taken.items()
    }
    assert typical[LARGE] <= 2 * typical[SMALL], taken
    for question in QUESTIONS:  # and none reads whole tables, which would be a hundred times as much
        small, large = (statistics.median(taken[count][question]) for count in (SMALL, LARGE))
        assert large <= 10 * small, question
