from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambientd.config.environment import environment_layers
from ambientd.config.fields import sections
from ambientd.config.parse import MOST_PROBLEMS, Layer, Parsed, parse
from ambientd.config.problems import Problem
from ambientd.config.schema import Config, LogLevel, OutputFormat


def good(*layers: Layer | tuple[str, Mapping[str, object]]) -> Parsed:
    outcome = parse(layers)
    assert isinstance(outcome, Parsed), [problem.text for problem in outcome]
    return outcome


def bad(*layers: Layer | tuple[str, Mapping[str, object]]) -> list[Problem]:
    outcome = parse(layers)
    assert isinstance(outcome, list)
    return outcome


def only(values: Mapping[str, object]) -> Problem:
    (problem,) = bad(("a.toml", values))
    return problem


def agent(**values: object) -> dict[str, object]:
    return {"agents": {"reviewer": {"command": ["my-agent"], **values}}}


def test_nothing_gives_the_defaults() -> None:
    parsed = good()
    assert parsed.config == Config()
    assert set(parsed.provenance.values()) == {"default"}


def test_later_layers_win_key_by_key_and_every_origin_is_known() -> None:
    parsed = good(
        (
            "main",
            {"dispatcher": {"interval": "30s", "actor": "one"}, **agent(environment={"A": "1", "B": "1"})},
        ),
        (
            "conf.d/1.toml",
            {"dispatcher": {"actor": "two"}, "agents": {"reviewer": {"environment": {"B": "2"}}}},
        ),
    )
    assert (parsed.config.dispatcher.interval, parsed.config.dispatcher.actor) == (30.0, "two")
    assert parsed.config.agents["reviewer"].environment == {"A": "1", "B": "2"}
    origins = {key: origin for key, origin in parsed.provenance.items() if origin != "default"}
    assert origins == {
        "dispatcher.interval": "main",
        "dispatcher.actor": "conf.d/1.toml",
        "agents.reviewer.command": "main",
        "agents.reviewer.environment.A": "main",
        "agents.reviewer.environment.B": "conf.d/1.toml",
    }


def test_a_number_is_a_float_however_it_is_written() -> None:
    parsed = good(
        ("a", {"delta_v": {"alpha": 0.25, "isp": 3}}), *environment_layers({"AMBIENT__DELTA_V__ETA": "0.5"})
    )
    found = parsed.config.delta_v
    assert (found.alpha, found.isp, found.eta) == (0.25, 3.0, 0.5)
    assert type(found.isp) is float


def test_what_a_number_may_be_is_said() -> None:
    assert only({"delta_v": {"eta": 2}}).text == "a.toml: delta_v.eta is 2, but must be a number from 0 to 1."


def test_every_kind_of_value_is_typed() -> None:
    reviewer = {
        "output": "jsonl",
        "models": ["m1", "m2"],
        "model": "m2",
        "memory_limit": "4GiB",
        "cpu_time_limit": "1h",
        "process_limit": 12,
        "workdir": "/srv",
    }
    parsed = good(("a", {**agent(**reviewer), "log": {"level": "debug"}, "heartbeat": {"enabled": False}}))
    made = parsed.config.agents["reviewer"]
    assert (made.id, made.command, made.output) == ("reviewer", ("my-agent",), OutputFormat.JSONL)
    assert (made.memory_limit, made.cpu_time_limit, made.models) == (4 * 2**30, 3600.0, ("m1", "m2"))
    assert parsed.config.log.level is LogLevel.DEBUG
    assert parsed.config.heartbeat.enabled is False


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"dispatcher": {"intervall": "5s"}},
            "a.toml: dispatcher.intervall is not a setting. Did you mean dispatcher.interval?",
        ),
        ({"dispatchr": {}}, "a.toml: dispatchr is not a setting. Did you mean dispatcher?"),
        ({"actor": "x"}, "a.toml: actor is not a setting. Did you mean dispatcher.actor?"),
        ({"zebra": 1}, "a.toml: zebra is not a setting."),
        (
            {"dispatcher": {"interval": 60}},
            (
                'a.toml: dispatcher.interval is 60, but must be a duration with a unit ("90s", "5m", "1h30m")'
                ' from 100ms to 60s. Did you mean "60s"?'
            ),
        ),
        (
            {"log": {"level": "warn"}},
            (
                'a.toml: log.level is "warn", but must be one of "debug", "info", "warning", "error". '
                'Did you mean "warning"?'
            ),
        ),
        ({"node": 5}, "a.toml: node must be a table of settings."),
        ({"agents": {"x": {}}}, "a.toml: agents.x.command is missing: it must be a list of strings."),
    ],
)
def test_a_problem_says_what_where_and_what_to_try(values: Mapping[str, object], text: str) -> None:
    assert only(values).text == text


@pytest.mark.parametrize(
    ("section", "key", "value", "suggestion"),
    [
        ("dispatcher", "interval", "60 seconds", '"60s"'),
        ("dispatcher", "interval", "60", '"60s"'),
        ("dispatcher", "interval", 0.5, '"500ms"'),
        ("dispatcher", "interval", 3600, None),
        ("dispatcher", "interval", "2h", None),
        ("dispatcher", "interval", True, None),
        ("heartbeat", "enabled", "yes", "true"),
        ("heartbeat", "enabled", 0, "false"),
        ("heartbeat", "max_size", "64K", '"64KiB"'),
        ("heartbeat", "max_size", 1.5, None),
        ("sessions", "max_concurrent", "8", "8"),
        ("sessions", "max_concurrent", 8.0, "8"),
        ("sessions", "max_concurrent", 0, None),
        ("sessions", "max_concurrent", 10**300, None),
        ("delta_v", "alpha", "0.25", "0.25"),
        ("delta_v", "alpha", "1", "1"),
        ("delta_v", "alpha", "99", None),
        ("delta_v", "alpha", "a tenth", None),
        ("delta_v", "alpha", -0.1, None),
        ("delta_v", "alpha", float("nan"), None),
        ("delta_v", "isp", float("inf"), None),
        ("delta_v", "isp", 10**400, None),
        ("delta_v", "eta", True, None),
        ("node", "name", 7, '"7"'),
        ("node", "name", "", None),
        ("node", "name", "a/b", None),
        ("node", "name", "a\0b", None),
        ("node", "name", "\ud800", None),
        ("node", "mode", ["production"], None),
        ("dispatcher", "actor", "ü", None),
    ],
)
def test_wrong_values_are_refused_with_the_near_right_one(
    section: str, key: str, value: object, suggestion: str | None
) -> None:
    problem = only({section: {key: value}})
    assert problem.path == f"{section}.{key}"
    assert problem.expected
    assert problem.suggestion == suggestion


@pytest.mark.parametrize(
    ("values", "path", "suggestion"),
    [
        ({"command": []}, "command", None),
        ({"command": [""]}, "command", None),
        ({"command": "my-agent --fast"}, "command", '["my-agent", "--fast"]'),
        ({"command": ["x", 5]}, "command", None),
        ({"command": ["x", "a\0b"]}, "command", None),
        ({"command": ["x", "{promt}"]}, "command", "{prompt}"),
        ({"command": ["x", "--task={task}"]}, "command", None),
        ({"command": ["{model}"]}, "command", None),
        ({"command": ["x", "y" * 70_000]}, "command", None),
        ({"models": ["fast-1", "slow-1"], "model": "fast-2"}, "model", '"fast-1"'),
        ({"models": ["fast-1", ""]}, "models", None),
        ({"workdir": "relative"}, "workdir", None),
        ({"environment_file": "~/x.env"}, "environment_file", None),
        ({"environment": {"1A": "x"}}, "environment.1A", None),
        ({"environment": {"A": 5}}, "environment.A", None),
        ({"environment": {"A": "x\0"}}, "environment.A", None),
        ({"environment": "A=1"}, "environment", None),
        ({"max_concurrent": 0}, "max_concurrent", None),
        ({"nmae": "x"}, "nmae", "agents.reviewer.name"),
    ],
)
def test_an_agent_is_checked_as_a_whole(values: dict[str, object], path: str, suggestion: str | None) -> None:
    problem = only(agent(**values))
    assert problem.path == f"agents.reviewer.{path}"
    assert problem.suggestion == suggestion


@pytest.mark.parametrize(
    "argument",
    [
        "{prompt}",
        "--model={model}",
        "awk '{print}' x",
        "echo ${HOME} {session_id}",
        "{{name}}",
        "{}",
        '{"a": 1}',
    ],
)
def test_ordinary_braces_are_no_placeholders(argument: str) -> None:
    assert good(("a", agent(command=["sh", "-c", argument]))).config.agents["reviewer"].command[2] == argument


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "a/b", "x" * 65, "ü", "a\n"])
def test_an_impossible_agent_id_is_refused(name: str) -> None:
    assert "is not a possible id" in only({"agents": {name: {"command": ["x"]}}}).text


def test_no_secret_is_shown() -> None:
    problems = bad(("a", {**agent(environment={"KEY": 12345, "B": "hunter2\0"}), "api_token": "hunter2"}))
    assert len(problems) == 3
    told = repr(problems) + "".join(problem.text for problem in problems)
    assert "12345" not in told
    assert "hunter2" not in told


def test_what_is_shown_is_short_and_on_one_line() -> None:
    problem = only({"node": {"name": "\x1b[31m\n" + "x" * 10_000}})
    assert problem.text.isprintable()
    assert len(problem.text) < 300


def test_all_problems_come_at_once_by_layer_and_key() -> None:
    first = {"node": {"name": ""}, "dispatcher": {"interval": 5, "actor": ""}, "zzz": 1}
    problems = bad(("one", first), ("two", {"aaa": 1, "log": {"level": 1}}))
    assert [(problem.where, problem.path) for problem in problems] == [
        ("one", "dispatcher.actor"),
        ("one", "dispatcher.interval"),
        ("one", "node.name"),
        ("one", "zzz"),
        ("two", "aaa"),
        ("two", "log.level"),
    ]


def test_a_bad_value_in_an_early_layer_counts_even_when_a_later_one_wins() -> None:
    problems = bad(("one", {"log": {"level": "loud"}}), ("two", {"log": {"level": "info"}}))
    assert [problem.where for problem in problems] == ["one"]


def test_countless_problems_are_counted() -> None:
    problems = bad(("a", {f"key{number}": 1 for number in range(50_000)}))
    assert len(problems) == MOST_PROBLEMS + 1
    assert problems[-1].text == "a: 49,000 more problems are not listed."


def test_a_number_too_long_to_print_is_a_problem_too() -> None:
    assert "a huge integer" in only({"sessions": {"max_concurrent": 10**5000}}).text


def test_deep_input_is_not_followed() -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(100_000):
        inner["x"] = {}
        inner = inner["x"]
    assert bad(("a", {"node": {"name": deep}, "unknown": deep, "dispatcher": {"interval": [deep]}}))
    while deep:  # taken apart from the outside: no deep recursion when it is freed
        deep = deep["x"]


NAMES = st.one_of(
    st.sampled_from(
        [*sections(), *(name for part in sections().values() for name in part.settings), "reviewer"]
    ),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=12),
        st.sampled_from(["30s", "64KiB", "info", "jsonl", "/srv", "{promt}"]),
        st.datetimes(),
        st.dates(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)  # the first to give a section pays for the import of its checks
@given(
    st.lists(st.tuples(st.text(max_size=5), st.dictionaries(NAMES, VALUES, max_size=5)), max_size=3),
    st.booleans(),
)
def test_parse_never_raises_and_repeats_itself(
    layers: list[tuple[str, Mapping[str, object]]], textual: bool
) -> None:
    made = [Layer(origin, values, textual) for origin, values in layers]
    first, again = parse(made), parse(made)
    assert repr(first) == repr(again)
    if isinstance(first, list):
        assert first
        assert all(problem.sentence.isprintable() for problem in first)


def test_variables_are_layers_of_their_own() -> None:
    environ = {
        "AMBIENT__DISPATCHER__INTERVAL": "30s",
        "AMBIENT__NODE__NAME": "007",
        "AMBIENT__HEARTBEAT__ENABLED": "false",
        "AMBIENT__SESSIONS__MAX_CONCURRENT": "3",
        "AMBIENT__AGENTS__CODE_REVIEW__COMMAND": '["a", "b"]',
        "AMBIENT__AGENTS__CODE_REVIEW__ENVIRONMENT__My__VAR": "[1]",
        "AMBIENT__AGENTS__OTHER": '{command = ["x"], timeout = "5m"}',
        "AMBIENT_CONFIG": "/nowhere",
    }
    parsed = good(
        ("a", {"agents": {"Code-Review": {"command": ["x"]}}}), *environment_layers(environ, ["Code-Review"])
    )
    config = parsed.config
    assert (config.dispatcher.interval, config.node.name) == (30.0, "007")
    assert (config.heartbeat.enabled, config.sessions.max_concurrent) == (False, 3)
    assert list(config.agents) == ["Code-Review", "other"]
    assert config.agents["Code-Review"].command == ("a", "b")
    assert config.agents["Code-Review"].environment == {"My__VAR": "[1]"}
    assert config.agents["other"].timeout == 300.0
    assert parsed.provenance["node.name"] == "environment AMBIENT__NODE__NAME"


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("AMBIENT__", "x", '""'),
        ("AMBIENT__NODE", "x", "node"),
        ("AMBIENT__NODE__NMAE", "x", "node.nmae"),
        ("AMBIENT__NODE__NAME__X", "x", "node.name"),
        ("AMBIENT__NODE__NAME", "\udcff", "node.name"),
        ("AMBIENT__DISPATCHER__INTERVAL", "60", "dispatcher.interval"),
        ("AMBIENT__HEARTBEAT__ENABLED", "yes", "heartbeat.enabled"),
        ("AMBIENT__SESSIONS__MAX_CONCURRENT", "1\nx = 2", "sessions.max_concurrent"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, path: str) -> None:
    (problem,) = bad(*environment_layers({name: value}))
    assert (problem.where, problem.path) == (f"environment {name}", path)


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"url": "ws://gate.example.net:1"}, "gateway.url", "must be wss://"),
        ({"url": "ws://u:p@127.0.0.1"}, "gateway.url", "user name or password"),
        ({"url": "http://127.0.0.1"}, "gateway.url", "ws:// or wss://"),
        ({"token_file": "token"}, "gateway.token_file", "absolute path"),
        ({"reconcile_interval": "1s"}, "gateway.reconcile_interval", "from 5s"),
    ],
)
def test_a_gateway_that_cannot_be_used_is_refused_before_anything_starts(
    settings: dict[str, object], path: str, words: str
) -> None:
    outcome = parse([("file", {"gateway": settings})])
    assert isinstance(outcome, list)
    (found,) = outcome
    assert found.path == path
    assert words in found.text


def test_a_plain_line_to_another_host_must_be_allowed() -> None:
    asked = {"gateway": {"url": "ws://gate.example.net:1", "allow_plain": True}}
    assert isinstance(parse([("file", asked)]), Parsed)
