"""The fake answers what the contract says, in the shapes of the wire."""

import msgspec

from ambientctl.transport import Answer, exchange
from ambientd.wire import messages as m
from ambientd.wire import routes
from tests.fakes.daemon_http import FakeDaemon, summary


def _ask(daemon: FakeDaemon, target: str, body: bytes | None = None) -> Answer:
    return exchange((daemon.socket_path,), target, accept="application/json", limit=10, body=body)


def test_every_answer_decodes_as_its_message(daemon: FakeDaemon) -> None:
    daemon.sessions["ses_1"] = summary("ses_1")
    daemon.say("ses_1", "message", {"text": "hello"})
    for target, shape in (
        (routes.STATUS, m.StatusDocument),
        (routes.LEDGER, m.LedgerPage),
        (routes.LEDGER + "/ses_1", m.SessionDetail),
        (routes.LEDGER + "/ses_1/events", m.EventsPage),
        (routes.MIGRATIONS, m.MigrationsView),
        (routes.LEDGER + "/none", m.ErrorEnvelope),
    ):
        assert isinstance(msgspec.json.decode(_ask(daemon, target).body, type=shape), shape)


def test_a_session_is_started_ended_and_then_over(daemon: FakeDaemon) -> None:
    order = msgspec.json.encode(m.SpawnRequest("tony", "do it"))
    begun = msgspec.json.decode(_ask(daemon, routes.SPAWN, order).body, type=m.SpawnAnswer)
    wish = msgspec.json.encode(m.KillRequest(begun.session_id))
    ended = msgspec.json.decode(_ask(daemon, routes.KILL, wish).body, type=m.KillAnswer)
    assert (ended.signal, ended.ended) == ("cancelled", True)
    again = _ask(daemon, routes.KILL, wish)
    assert again.status == 409
    assert msgspec.json.decode(again.body, type=m.ErrorEnvelope).error.code == "NOTHING_RUNS"


def test_a_part_of_an_id_that_fits_two_is_ambiguous(daemon: FakeDaemon) -> None:
    daemon.sessions |= {name: summary(name) for name in ("ses_1a", "ses_1b")}
    answer = _ask(daemon, routes.LEDGER + "/ses_1")
    error = msgspec.json.decode(answer.body, type=m.ErrorEnvelope).error
    assert (answer.status, error.code) == (409, "AMBIGUOUS")
    assert [detail.field for detail in error.details] == ["ses_1a", "ses_1b"]


def test_events_wait_for_news_and_not_for_what_is_over(daemon: FakeDaemon) -> None:
    daemon.sessions["ses_1"] = summary("ses_1")
    daemon.end("ses_1", "success")
    answer = _ask(daemon, routes.LEDGER + "/ses_1/events?after=99&wait=25")
    page = msgspec.json.decode(answer.body, type=m.EventsPage)
    assert (page.ended, page.events) == (True, [])
