from typing import Any

import pytest

from ambientd.config.parse import Layer, Parsed, parse
from ambientd.config.problems import Problem
from ambientd.config.schema import Config, NotifierConfig, NotifierKind


def parsed(**notifiers: Any) -> Parsed:
    outcome = parse([("file", {"alerts": {"notifiers": notifiers}})])
    assert isinstance(outcome, Parsed), [problem.text for problem in outcome]
    return outcome


def problems(alerts: Any) -> list[Problem]:
    outcome = parse([("file", {"alerts": alerts})])
    assert isinstance(outcome, list)
    return outcome


def test_without_settings_there_is_a_sweep_every_five_minutes_and_nobody_to_tell() -> None:
    assert (Config().alerts.sweep_interval, Config().alerts.notifiers) == (300.0, {})


def test_notifiers_are_tables_by_name() -> None:
    outcome = parsed(
        ops={"kind": "webhook", "url": "https://hooks.example.net/x", "timeout": "3s"},
        page={"kind": "command", "command": ["/bin/page", "me"]},
    )
    assert outcome.config.alerts.notifiers == {
        "ops": NotifierConfig(
            id="ops", kind=NotifierKind.WEBHOOK, url="https://hooks.example.net/x", timeout=3.0
        ),
        "page": NotifierConfig(id="page", kind=NotifierKind.COMMAND, command=("/bin/page", "me")),
    }
    assert outcome.provenance["alerts.notifiers.ops.timeout"] == "file"
    assert outcome.provenance["alerts.notifiers.ops.attempts"] == "default"


def test_layers_are_merged_key_by_key() -> None:
    outcome = parse(
        [
            Layer("file", {"alerts": {"notifiers": {"ops": {"kind": "webhook", "url": "http://a/"}}}}),
            Layer("variable", {"alerts": {"notifiers": {"ops": {"attempts": "2"}}}}, textual=True),
        ]
    )
    assert isinstance(outcome, Parsed)
    ops = outcome.config.alerts.notifiers["ops"]
    assert (ops.url, ops.attempts) == ("http://a/", 2)


@pytest.mark.parametrize(
    ("notifier", "path", "words"),
    [
        ({}, "alerts.notifiers.n.kind", "is missing"),
        ({"kind": "mail"}, "alerts.notifiers.n.kind", "must be one of"),
        ({"kind": "command"}, "alerts.notifiers.n.kind", "needs command"),
        ({"kind": "webhook"}, "alerts.notifiers.n.kind", "needs url"),
        ({"kind": "command", "command": []}, "alerts.notifiers.n.command", "names no program"),
        ({"kind": "webhook", "url": "ftp://a/"}, "alerts.notifiers.n.url", "cannot be used"),
        ({"kind": "webhook", "url": "https:///x"}, "alerts.notifiers.n.url", "cannot be used"),
        ({"kind": "webhook", "url": "https://u:p@a/"}, "alerts.notifiers.n.url", "cannot be used"),
        ({"kind": "webhook", "url": "https://a:99999/"}, "alerts.notifiers.n.url", "cannot be used"),
        ({"kind": "webhook", "url": "https://a/ b"}, "alerts.notifiers.n.url", "cannot be used"),
        ({"kind": "log", "secret_file": "key"}, "alerts.notifiers.n.secret_file", "absolute path"),
        ({"kind": "log", "attempts": 0}, "alerts.notifiers.n.attempts", "from 1 to 10"),
        ({"kind": "log", "tiemout": "3s"}, "alerts.notifiers.n.tiemout", "is not a setting"),
    ],
)
def test_each_mistake_is_named_where_it_is(notifier: Any, path: str, words: str) -> None:
    (found,) = problems({"notifiers": {"n": notifier}})
    assert found.path == path
    assert words in found.text


def test_a_notifier_is_a_table() -> None:
    found, missing = problems({"notifiers": {"n": "log"}})
    assert (found.path, missing.path) == ("alerts.notifiers.n", "alerts.notifiers.n.kind")
    assert "must be a table of settings" in found.text


def test_a_url_is_never_shown_in_a_problem() -> None:
    (found,) = problems({"notifiers": {"n": {"kind": "webhook", "url": "ftp://token-1/"}}})
    assert "token-1" not in found.text


def test_mistyped_names_get_a_suggestion() -> None:
    assert problems({"notifers": {}})[0].suggestion == "alerts.notifiers"
    (found,) = problems({"notifiers": {"n": {"kind": "log", "tiemout": "3s"}}})
    assert found.suggestion == "alerts.notifiers.n.timeout"


def test_a_name_that_cannot_be_one_is_refused() -> None:
    (found,) = problems({"notifiers": {"a b": {"kind": "log"}}})
    assert "is not a possible id" in found.text
