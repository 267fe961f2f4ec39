from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ambientd.config.upstream import ControlAddress
from ambientd.core.connectivity import Answer, Link, Links, State
from ambientd.core.connectivitytext import (
    Seen,
    connectivity_problems,
    control_line,
    control_status,
    state_status,
)
from ambientd.core.doctor import judge_answer, judge_control, judge_links
from ambientd.core.statustext import Look, render, render_short
from ambientd.wire.doctor_messages import CheckResult
from ambientd.wire.enums import Connectivity, Health
from tests.core.test_statustext import document

NOW = datetime(2026, 11, 20, 15, 40, 3, 120000, tzinfo=UTC)
ADDRESS = ControlAddress(host="cp.example.net", port=443, tls=True, path="")
URL = "https://cp.example.net"
ROUTED = Links(usable=(Link("eth0", routed=True), Link("wg0")))
YES, NO = Answer(True, latency_ms=11), Answer(False, "connect timeout")

OFFLINE = Seen(
    state=State(name=Connectivity.OFFLINE, reason="connect timeout"),
    since=NOW - timedelta(seconds=372),
    duration=372.0,
    order="",
    links=ROUTED,
    targets=0,
    control=ADDRESS,
    control_answer=NO,
    control_since=NOW - timedelta(seconds=372),
    failures=7,
    due=NOW + timedelta(seconds=18),
)
replace = msgspec.structs.replace
ONLINE = replace(
    OFFLINE, state=State(name=Connectivity.ONLINE, reason="the control plane answers"), control_answer=YES
)
CUT = replace(
    OFFLINE,
    state=State(name=Connectivity.NO_UPSTREAM, reason="no link is up"),
    control_answer=None,
    links=Links(none="no link is up"),
)
ALONE = replace(OFFLINE, control=None, control_answer=None)
ORDERED = replace(OFFLINE, order="connectivity.offline is set")
START = replace(OFFLINE, state=State(), control_answer=None)


@pytest.mark.parametrize(
    ("seen", "mark", "text"),
    [
        (OFFLINE, "act", "unreachable for 6m12s (connect timeout), next try in 18s"),
        (ONLINE, "good", f"{URL}, 11ms"),
        (replace(ONLINE, control_answer=NO), "look", f"{URL}, last probe: connect timeout"),
        (CUT, "act", "unreachable for 6m12s (no link is up), next try in 18s"),
        (ALONE, "off", "none configured"),
        (ORDERED, "off", "not asked: connectivity.offline is set"),
        (START, "look", f"asking {URL}"),
    ],
)
def test_the_row_of_the_control_plane(seen: Seen, mark: str, text: str) -> None:
    assert control_line(control_status(seen), state_status(seen), NOW) == (mark, text)


def test_the_row_of_a_node_that_has_joined() -> None:
    control = replace(control_status(ONLINE), node_id="edge-1")
    assert control_line(control, state_status(ONLINE), NOW) == ("good", f"{URL} as edge-1, 11ms")
    mark, text = control_line(replace(control, refused="why"), state_status(ONLINE), NOW)
    assert (mark, text) == ("act", f"{URL} refuses this node: why")


@pytest.mark.parametrize(
    ("seen", "ids"),
    [
        (OFFLINE, ["control.unreachable"]),
        (ONLINE, []),
        (CUT, ["links.no_upstream"]),
        (replace(CUT, control=None), []),
        (replace(CUT, control=None, targets=1), ["links.no_upstream"]),
        (ALONE, []),
        (ORDERED, []),
        (replace(CUT, order="told so"), []),
        (START, []),
        (replace(ONLINE, unrecorded="disk full"), ["links.not_recorded"]),
        (replace(ONLINE, lost=3), ["links.not_recorded"]),
    ],
)
def test_a_problem_is_what_somebody_can_mend_and_carries_the_command_that_helps(
    seen: Seen, ids: list[str]
) -> None:
    found = list(connectivity_problems(seen))
    assert [problem.id for problem in found] == ids
    assert all(problem.help and problem.help.startswith("ambientctl ") for problem in found)


def test_a_control_plane_that_answers_again_is_not_called_unreachable() -> None:
    assert ONLINE.control_answer is not None
    (problem,) = connectivity_problems(replace(OFFLINE, control_answer=ONLINE.control_answer))
    assert problem.text.startswith("control plane not counted on yet: it answers again")
    (problem,) = connectivity_problems(OFFLINE)
    assert problem.text.startswith("control plane unreachable: ")


@pytest.mark.parametrize(
    ("seen", "head"),
    [
        (OFFLINE, "edge-07  offline · 6m12s"),
        (ONLINE, "edge-07  online · 6m12s"),
        (CUT, "edge-07  no upstream · 6m12s"),
        (START, "edge-07  starting · 6m12s"),
    ],
)
def test_the_head_says_the_state_and_how_long(seen: Seen, head: str) -> None:
    told = document(state=state_status(seen), control=control_status(seen))
    assert render(told, Look(width=80)).startswith(f"● {head}  ")
    assert render_short(told, Look(width=80)).startswith(f"● {head}  ")
    assert "control  " in render(told, Look(width=80))
    ill = document(state=state_status(seen), control=control_status(seen), health=Health.DEGRADED)
    assert render(ill, Look(width=80)).startswith(f"! {head}, degraded  ")
    assert render(ill, Look(width=80, ascii_only=True)).isascii()
    assert all(len(line) <= 40 for line in render(ill, Look(width=40)).splitlines())


@pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=3650)])
def test_no_age_is_negative_whatever_the_clock_says(jump: timedelta) -> None:
    told = document(state=state_status(replace(OFFLINE, since=NOW - jump)), control=control_status(OFFLINE))
    assert "-" not in render_short(told, Look(width=80)).partition("ambientd")[0].replace("edge-07", "")


def test_the_names_on_the_wire_are_exactly_these() -> None:
    """R1.47."""
    assert {one.value for one in Connectivity} == {
        "Unknown",
        "OnlineControlPlane",
        "OfflineControlPlane",
        "NoUpstream",
    }


@pytest.mark.parametrize(
    ("seen", "result"),
    [
        (OFFLINE, CheckResult.FAIL),
        (ONLINE, CheckResult.OK),
        (CUT, CheckResult.FAIL),
        (ALONE, CheckResult.SKIP),
        (ORDERED, CheckResult.SKIP),
        (START, CheckResult.WARN),
    ],
)
def test_what_doctor_says_of_the_control_plane(seen: Seen, result: CheckResult) -> None:
    found = judge_control(control_status(seen), state_status(seen), NOW)
    assert found.result is result
    assert (found.remedy is not None) == (result is CheckResult.FAIL)


def test_what_doctor_says_of_links_and_of_its_own_probe() -> None:
    assert judge_links(ROUTED, wanted=True) == (CheckResult.OK, "up: eth0 (default route), wg0", None)
    down = Links(none="no link is up")
    assert judge_links(down, wanted=True).result is CheckResult.FAIL
    assert judge_links(down, wanted=False).result is CheckResult.SKIP
    bare = Links(usable=(Link("wg0"),))
    assert judge_links(bare, wanted=True).result is CheckResult.WARN
    assert judge_links(bare, wanted=False).result is CheckResult.OK
    assert judge_links(Links(error="x"), wanted=True).result is CheckResult.WARN
    assert judge_answer(URL, YES).result is CheckResult.OK
    assert judge_answer(URL, NO).result is CheckResult.FAIL
