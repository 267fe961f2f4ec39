"""`ambientctl delta-v` against a scripted daemon: what it asks, prints and draws."""

import json
import os
import subprocess
from typing import Any

import msgspec
import pytest

from ambientctl.camel import camel
from ambientctl.delta_v_view import figure
from ambientd.core.delta_v_words import PARAMETERS
from ambientd.core.delta_v_words import figure as daemons_figure
from ambientd.wire import delta_v_messages as m
from ambientd.wire import routes
from ambientd.wire.enums import MetricConfidence
from tests.ctl.conftest import Ctl, command, outside, read_terminal
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

LOW, HIGH = MetricConfidence.LOW, MetricConfidence.HIGH


def point(minute: int, value: float) -> m.DeltaVPoint:
    return m.DeltaVPoint(
        at=f"2026-11-20T15:{minute:02}:00.000Z",
        seconds=60.0,
        gap_sec=0.0,
        value=value,
        per_hour=value * 60,
        watts=14.9,
        load=0.35,
        velocity=1.0,
        inertia=4.0,
        samples=1,
        refused=0,
        source="model:cpu-time",
        confidence=LOW,
    )


def answered(**changes: Any) -> Reply:
    window = m.DeltaVWindow("2026-11-20T14:30:00.000Z", 120.0, 0.0, 3.42, 102.6, 1788.0, 2, 0, LOW)
    session = m.DeltaVSession(
        "ses_000000000000000000a1b2c3d4",
        "2026-11-20T15:00:00.000Z",
        1.5,
        45.0,
        120.0,
        900.0,
        2,
        0,
        "cpu-time",
        LOW,
        True,
    )
    facts: dict[str, Any] = {
        "generated_at": "2026-11-20T15:30:00.000Z",
        "status": "ok",
        "value": 97_200.0,
        "unit": "J/GiB",
        "mapping": "ambient.node/1",
        "since": "2026-11-19T12:00:00.000Z",
        "generation": 1,
        "seconds": 7200.0,
        "gap_sec": 0.0,
        "samples": 120,
        "refused": m.DeltaVRefused(),
        "clamped": 0,
        "corrected": 0,
        "interval_sec": 60.0,
        "window": window,
        "inputs": [
            m.DeltaVInput(
                "power", "P", 14.9, "W", "model:cpu-time", LOW, "RAPL needs read access to energy_uj"
            ),
            m.DeltaVInput("load", "w", 0.35, "", "loadavg", HIGH),
        ],
        "parameters": [m.DeltaVParameter("alpha", 0.1, "", 0.0, 1.0, "how fast it falls")],
        "step_sec": 60,
        "history": [point(0, 1.0), point(1, 2.42)],
        "sessions": [session],
    }
    return Reply(200, msgspec.json.encode(m.DeltaVAnswer(**(facts | changes))))


def test_the_last_hour_is_asked_for_unless_told_otherwise(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.DELTA_V] = answered()
    for words in ([], ["--since", "2026-11-20T15:00:00Z"], ["--session", "a1b2"]):
        assert ctl("delta-v", *words).code == 0
    asked = [seen.query for seen in daemon.seen]
    assert [sorted(query) for query in asked] == [["since"], ["since"], ["session", "since"]]
    assert asked[1]["since"] == "2026-11-20T15:00:00.000Z"
    assert asked[2]["session"] == "a1b2"


def test_value_inputs_and_parameters_are_shown_with_source_and_confidence(
    ctl: Ctl, daemon: FakeDaemon
) -> None:
    daemon.script[routes.DELTA_V] = answered()
    found = ctl("delta-v")
    lines = [line.split() for line in found.out.splitlines()]
    assert found.out.startswith("Δv  3.42 J/GiB in 2m00s (103 per hour), low confidence\n")
    assert "97.2k J/GiB since 2026-11-19 12:00, 120 samples" in found.out
    assert [
        "P",
        "power",
        "14.9",
        "W",
        "model:cpu-time",
        "low",
        *["RAPL", "needs", "read", "access", "to", "energy_uj"],
    ] in lines
    assert ["w", "load", "0.350", "loadavg", "high"] in lines
    assert ["alpha", "0.100", "0", "to", "1", *["how", "fast", "it", "falls"]] in lines
    (row,) = (line for line in lines if line[:1] == ["a1b2c3d4"])
    assert row[-6:] == ["1.50", "45.0", "900", "2m00s", "cpu-time", "low"]
    assert "delta_v.idle_power" in found.err
    assert "█" not in found.out


def test_what_was_left_out_is_said(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.DELTA_V] = answered(
        status="overflow",
        refused=m.DeltaVRefused(3, 2),
        clamped=1,
        gap_sec=3700.0,
        reason="the parameters were changed",
        inputs=[m.DeltaVInput("power", "P", 20.0, "W", "battery", HIGH)],
    )
    found = ctl("delta-v")
    assert "120 samples, 3 not finite, 2 too large, 1 clamped, 1h01m not looked at" in found.out
    assert "counts from 2026-11-19 12:00 on: the parameters were changed" in found.out
    assert "lower bound" in found.out
    assert found.err == ""


def test_nothing_yet_is_said(ctl: Ctl, daemon: FakeDaemon) -> None:
    nothing = m.DeltaVWindow(
        "2026-11-20T14:30:00.000Z", 0.0, 0.0, 0.0, None, 0.0, 0, 0, MetricConfidence.UNKNOWN
    )
    daemon.script[routes.DELTA_V] = answered(
        value=0.0, samples=0, window=nothing, inputs=[], history=[], sessions=[]
    )
    found = ctl("delta-v")
    assert found.code == 0
    assert "nothing was measured in this window" in found.out
    assert "PER HOUR" not in found.out


def test_a_session_alone(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.DELTA_V] = [answered(), answered(sessions=[])]
    found = ctl("delta-v", "--session", "a1b2c3d4")
    assert "a1b2c3d4" in found.out
    assert "PARAMETER" not in found.out
    assert "has no part" in ctl("delta-v", "--session", "a1b2c3d4").err


def test_json_has_the_schema_and_camel_case_keys(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.DELTA_V] = answered()
    document = json.loads(ctl("delta-v", "--json").out)
    assert document["schema"] == "ambient.delta-v/1"
    assert document["generatedAt"].endswith("Z")
    assert document["window"]["perHour"] == 102.6
    assert document["history"][0]["gapSec"] == 0.0
    assert document["refused"] == {"notFinite": 0, "overflow": 0}
    assert "_" not in "".join(keys_of(document))
    tsv = ctl("delta-v", "-o", "tsv").out
    assert "window.perHour\t102.6\n" in tsv


def keys_of(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for item in value.values() for key in keys_of(item))]
    return [key for item in value for key in keys_of(item)] if isinstance(value, list) else []


def test_ascii_is_all_that_arrives_where_only_that_does(
    ctl: Ctl, daemon: FakeDaemon, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LC_ALL", "C")
    daemon.script[routes.DELTA_V] = answered()
    out = ctl("delta-v").out
    assert out.isascii()
    assert out.startswith("dv  3.42 J/GiB")


@pytest.mark.parametrize("since", ["soon", "1y", "-1h", ""])
def test_a_time_that_is_none_is_refused(ctl: Ctl, since: str) -> None:
    found = ctl("delta-v", "--since", since)
    assert found.code == 2
    assert "is no time; say 1h" in found.err


def test_a_refusal_is_passed_on(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.DELTA_V] = refused("NOT_FOUND", "no session has the id 'x'")
    assert ctl("delta-v", "--session", "x").code == 5


def test_help_lists_every_parameter_with_its_range(ctl: Ctl) -> None:
    told = ctl("delta-v", "--help").out
    assert [item.name for item in PARAMETERS if item.name not in told] == []
    for line in ("isp    0 to 1e6", "eta    0 to 1 ", "alpha  0 to 1 ", "v0     0 to 10"):
        assert line in told


def test_bars_are_drawn_on_a_terminal(daemon: FakeDaemon) -> None:
    daemon.script[routes.DELTA_V] = answered()
    controller, terminal = os.openpty()
    try:
        process = subprocess.Popen(
            command("delta-v"), stdout=terminal, stderr=subprocess.DEVNULL, env=outside(daemon.socket_path)
        )
        os.close(terminal)
        shown = read_terminal(controller).decode()
        assert process.wait(30) == 0
    finally:
        os.close(controller)
    assert "BY RATE" in shown
    assert "█" * 16 in shown


@pytest.mark.parametrize("value", [0.0, 3.42, 999.94, 97_200.0, 123_456_789.0, 9.177e305, 0.05, 1.2e-9, 1e12])
def test_figures_are_those_of_the_status(value: float) -> None:
    assert figure(value) == daemons_figure(value)
    assert figure(None) == "-"


def test_keys_are_turned_whole_documents_deep() -> None:
    assert camel({"a_b_c": [{"d_e": "f_g"}], "x": 1}) == {"aBC": [{"dE": "f_g"}], "x": 1}
    document = {"a_b": {"refused": {"not_known": 1}}, "refused": [{"c_d": 1}]}
    wanted = {"aB": {"refused": {"not_known": 1}}, "refused": [{"cD": 1}]}
    assert camel(document, as_is=("refused",)) == wanted
