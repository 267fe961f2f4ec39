"""`/api/v3/alerts`: rules and active alerts; and the trial of a notifier."""

from collections.abc import Callable

import msgspec

from ambientd.api.router import Access, Answer, Route, actor_of
from ambientd.flows import alerts as flow
from ambientd.flows.alerts import Alerting
from ambientd.ports.errors import Rejected
from ambientd.ports.http import Request, Response
from ambientd.ports.notifier import NotifierTrials
from ambientd.wire.alert_messages import (
    AlertAckRequest,
    AlertMuteRequest,
    AlertRulePatch,
    AlertRuleRequest,
    AlertRulesPage,
    AlertRuleView,
    AlertsPage,
    NotifierTestAnswer,
    NotifierTestRequest,
)
from ambientd.wire.routes import ALERT_RULES, ALERTS, ALERTS_ACTIVE, TEST_NOTIFIER

_ONE = ALERT_RULES + "/{rule_id}"
_encoder = msgspec.json.Encoder()


class Alerts(msgspec.Struct, frozen=True, kw_only=True):
    """What the alerts' routes need. `audited` writes the `[AUDIT]` log line of one action."""

    alerting: Alerting
    trials: NotifierTrials
    audited: Callable[..., None]


def alert_routes(alerts: Alerts) -> tuple[Route, ...]:
    """Active alerts, the rules, and what an operator does with them."""
    return (*_reading(alerts), *_rule_changes(alerts), *_actions(alerts))


def _reading(alerts: Alerts) -> tuple[Route, ...]:
    alerting = alerts.alerting

    async def active(request: Request) -> Answer:
        return AlertsPage(rows=await flow.list_active(alerting))

    async def rules(request: Request) -> Answer:
        return AlertRulesPage(rows=await flow.list_rules(alerting))

    async def show(request: Request) -> Answer:
        return await flow.show_rule(alerting, request.params["rule_id"])

    return (
        Route(
            method="GET",
            path=ALERTS_ACTIVE,
            handler=active,
            summary="Alerts that a person should know of, critical first.",
            answers={200: AlertsPage},
        ),
        Route(
            method="GET",
            path=ALERT_RULES,
            handler=rules,
            summary="Alert rules with where their alerts stand, oldest first.",
            answers={200: AlertRulesPage},
        ),
        Route(
            method="GET",
            path=_ONE,
            handler=show,
            summary="One alert rule; a unique part of the id is enough.",
            answers={200: AlertRuleView},
        ),
    )


def _rule_changes(alerts: Alerts) -> tuple[Route, ...]:
    alerting = alerts.alerting

    async def add(request: Request, body: AlertRuleRequest) -> Answer:
        answer = await flow.add_rule(alerting, body, actor_of(request.caller))
        told = _told(alerts, "alerts.rule.add", request, answer)
        return told if isinstance(told, Rejected) else Response(201, _encoder.encode(told))

    async def change(request: Request, body: AlertRulePatch) -> Answer:
        answer = await flow.change_rule(alerting, request.params["rule_id"], body, actor_of(request.caller))
        return _told(alerts, "alerts.rule.change", request, answer)

    async def remove(request: Request) -> Answer:
        answer = await flow.remove_rule(alerting, request.params["rule_id"], actor_of(request.caller))
        return _told(alerts, "alerts.rule.remove", request, answer)

    return (
        Route(
            method="POST",
            path=ALERT_RULES,
            handler=add,
            summary="Adds an alert rule.",
            access=Access.WRITE,
            action="alerts.rule.add",
            body=AlertRuleRequest,
            answers={201: AlertRuleView},
        ),
        Route(
            method="PATCH",
            path=_ONE,
            handler=change,
            summary="Changes what the body names of an alert rule.",
            access=Access.WRITE,
            action="alerts.rule.change",
            body=AlertRulePatch,
            answers={200: AlertRuleView},
        ),
        Route(
            method="DELETE",
            path=_ONE,
            handler=remove,
            summary="Removes an alert rule with its state; answers what it was.",
            access=Access.WRITE,
            action="alerts.rule.remove",
            answers={200: AlertRuleView},
        ),
    )


def _actions(alerts: Alerts) -> tuple[Route, ...]:
    alerting = alerts.alerting

    async def ack(request: Request, body: AlertAckRequest) -> Answer:
        answer = await flow.acknowledge_alert(alerting, request.params["rule_id"], actor_of(request.caller))
        return _told(alerts, "alerts.ack", request, answer)

    async def mute(request: Request, body: AlertMuteRequest) -> Answer:
        answer = await flow.mute_alert(alerting, request.params["rule_id"], body, actor_of(request.caller))
        return _told(alerts, "alerts.mute", request, answer)

    async def test_notifier(request: Request, body: NotifierTestRequest) -> Answer:
        return await alerts.trials.try_out(body.name)

    return (
        Route(
            method="POST",
            path=ALERTS + "/{rule_id}/ack",
            handler=ack,
            summary="Notes who has seen an active alert.",
            access=Access.WRITE,
            action="alerts.ack",
            body=AlertAckRequest,
            answers={200: AlertRuleView},
        ),
        Route(
            method="POST",
            path=ALERTS + "/{rule_id}/mute",
            handler=mute,
            summary="Keeps an alert quiet for a time.",
            access=Access.WRITE,
            action="alerts.mute",
            body=AlertMuteRequest,
            answers={200: AlertRuleView},
        ),
        Route(
            method="POST",
            path=TEST_NOTIFIER,
            handler=test_notifier,
            summary="One attempt to deliver a test notification.",
            access=Access.WRITE,
            body=NotifierTestRequest,
            answers={200: NotifierTestAnswer},
        ),
    )


def _told(
    alerts: Alerts, action: str, request: Request, answer: AlertRuleView | Rejected
) -> AlertRuleView | Rejected:
    actor, pid = actor_of(request.caller), request.caller.pid
    if isinstance(answer, Rejected):
        alerts.audited(action=action, actor=actor, pid=pid, refused=answer.code)
    else:
        alerts.audited(action=action, actor=actor, pid=pid, rule=answer.rule_id)
    return answer
