"""The account: what it counts since when, its slices, the parts of sessions; and its words."""

import math
from datetime import UTC, datetime

import msgspec
import pytest

from ambientd.config.autonomy import DeltaVConfig
from ambientd.config.fields import sections
from ambientd.core.delta_v import Parameters, Total, integrate
from ambientd.core.delta_v_account import (
    LARGEST,
    Account,
    Basis,
    SessionSum,
    Slice,
    add_sample,
    merge,
    open_account,
)
from ambientd.core.delta_v_inputs import Inputs, Reading, Share, Yardstick, build_inputs
from ambientd.core.delta_v_words import (
    PARAMETERS,
    delta_v_line,
    figure,
    input_views,
    parameter_views,
    spark,
)
from ambientd.core.power import Metered, MeterKind
from ambientd.wire.autonomy_messages import DeltaVStatus
from ambientd.wire.enums import MetricConfidence

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
BASIS = Basis()


def inputs(watts: float = 100.0) -> Inputs:
    power = (Metered(MeterKind.CPU, "rapl:package", watts),)
    found = Reading(seconds=60.0, power=power, busy=60.0, cores=2, queue=2.4, memory=10.0)
    return build_inputs(found, 6, Yardstick())


def test_a_kept_account_goes_on_and_one_on_another_basis_begins_anew_and_says_why() -> None:
    kept = Account(since=NOW, basis=BASIS, total=Total(units=5, samples=1), seconds=60.0)
    later = datetime(2026, 11, 21, tzinfo=UTC)
    assert open_account(kept, BASIS, later) == kept
    other = Basis(parameters=Parameters(alpha=0.2))
    again = open_account(kept, other, later)
    assert (again.since, again.generation, again.total.samples) == (later, 2, 0)
    assert again.reason == "the parameters were changed"
    assert open_account(None, BASIS, NOW) == Account(since=NOW, basis=BASIS)


def test_a_sample_moves_the_account_and_makes_a_slice() -> None:
    account = Account(since=NOW, basis=BASIS)
    step = add_sample(account, inputs(), dt=60.0, gap_sec=5.0, at_ms=NOW_MS, sessions=())
    assert (step.account.seconds, step.account.gap_sec, step.account.total.samples) == (60.0, 5.0, 1)
    piece = step.slice
    assert piece.start_ms == NOW_MS - 30_000
    assert piece.value == step.account.total.value > 0
    assert (piece.seconds, piece.joules, piece.samples, piece.refused) == (60.0, 6000.0, 1, 0)
    assert (piece.source, piece.confidence) == ("rapl:package", MetricConfidence.MEDIUM)
    assert piece.mean("load_sec") == pytest.approx(0.5)
    assert piece.mean("inertia_sec") == 10.0
    assert Slice(start_ms=0).mean("joules") is None


def test_a_refused_sample_counts_and_moves_nothing_else() -> None:
    account = add_sample(
        Account(since=NOW, basis=BASIS), inputs(), dt=60.0, gap_sec=0.0, at_ms=NOW_MS, sessions=()
    ).account
    share, one = (
        Share("a", 0.5, "cpu-time", MetricConfidence.MEDIUM),
        SessionSum(session_id="a", since=NOW, generation=1),
    )
    step = add_sample(account, inputs(math.nan), dt=60.0, gap_sec=0.0, at_ms=NOW_MS, sessions=[(share, one)])
    assert step.account.total.value == account.total.value
    assert (step.account.total.refused, step.account.seconds) == (1, 60.0)
    assert (step.slice.value, step.slice.seconds, step.slice.refused) == (0.0, 0.0, 1)
    assert step.sessions == ()


def test_parts_of_sessions_come_to_the_whole() -> None:
    account, sums = Account(since=NOW, basis=BASIS), {}
    shares = [
        Share("a", 0.75, "cpu-time", MetricConfidence.MEDIUM),
        Share("b", 0.25, "equal", MetricConfidence.LOW),
    ]
    for share in shares:
        sums[share.session_id] = SessionSum(session_id=share.session_id, since=NOW, generation=1)
    for _ in range(3):
        pairs = [(share, sums[share.session_id]) for share in shares]
        step = add_sample(account, inputs(), dt=60.0, gap_sec=0.0, at_ms=NOW_MS, sessions=pairs)
        account, sums = step.account, {one.session_id: one for one in step.sessions}
    assert sums["a"].total.value + sums["b"].total.value == pytest.approx(account.total.value, rel=1e-12)
    assert sums["a"].joules == pytest.approx(13_500)
    assert (sums["a"].source, sums["a"].confidence) == ("cpu-time", MetricConfidence.MEDIUM)
    assert (sums["b"].source, sums["b"].confidence) == ("equal", MetricConfidence.LOW)


def test_a_session_whose_processes_are_gone_at_its_end_says_both_sources() -> None:
    one = SessionSum(session_id="a", since=NOW, generation=1)
    account = Account(since=NOW, basis=BASIS)
    for source in ("cpu-time", "cpu-time", "equal", "equal"):
        share = Share("a", 0.5, source, MetricConfidence.LOW)
        step = add_sample(account, inputs(), dt=60.0, gap_sec=0.0, at_ms=NOW_MS, sessions=[(share, one)])
        (one,) = step.sessions
    assert one.source == "cpu-time+equal"


def test_slices_are_merged() -> None:
    first = Slice(
        start_ms=60_000, seconds=60, value=1.0, samples=1, source="a", confidence=MetricConfidence.HIGH
    )
    second = Slice(start_ms=0, seconds=30, value=2.0, samples=1, source="b", confidence=MetricConfidence.LOW)
    both = merge(first, second)
    assert (both.start_ms, both.seconds, both.value, both.samples) == (60_000, 90, 3.0, 2)
    assert (both.source, both.confidence) == ("b", MetricConfidence.LOW)
    assert merge(first, Slice(start_ms=0, refused=1)).confidence is MetricConfidence.HIGH
    huge = Slice(start_ms=0, value=LARGEST)
    assert merge(huge, huge).value == LARGEST


def test_an_account_is_the_same_after_it_was_written_down() -> None:
    basis = Basis(parameters=Parameters(alpha=0.1, isp=1e-7), yardstick=Yardstick(nominal_rate=1 / 3))
    assert msgspec.json.decode(msgspec.json.encode(basis), type=Basis) == basis
    total = integrate_some()
    assert Total(units=int(f"{total.units:x}", 16)).value == total.value


def integrate_some() -> Total:
    from ambientd.core.delta_v import Formula, Sample

    return integrate(Formula(Parameters()), Total(), [Sample(100, 0.5, 1.2, 10, 1)] * 7)


# --- words


def test_every_parameter_is_a_setting_with_its_default_and_lies_in_its_safe_range() -> None:
    settings, defaults = sections()["delta_v"].settings, DeltaVConfig()
    shown = {view.name: view for view in parameter_views(BASIS)}
    assert shown.keys() == settings.keys() - {"enabled", "interval"}
    for item in PARAMETERS:
        setting, view = settings[item.name], shown[item.name]
        assert view.value == getattr(defaults, item.name) == setting.default
        assert item.minimum <= view.value <= item.maximum
        assert setting.minimum is not None
        assert setting.maximum is not None
        assert setting.minimum <= item.minimum
        assert item.maximum <= setting.maximum


def test_a_parameter_of_nothing_is_shown_as_nothing() -> None:
    views = {view.name: view.value for view in parameter_views(Basis(parameters=Parameters(alpha=0.0)))}
    assert views["alpha"] == 0.0


def test_inputs_have_names_and_units() -> None:
    found = [(view.symbol, view.unit, view.value) for view in input_views(inputs())]
    assert found == [("P", "W", 100.0), ("w", "", 0.5), ("v", "", 1.0), ("M", "GiB", 10.0)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.42, "3.42"),
        (75.74, "75.7"),
        (999.94, "1.00k"),
        (97_200, "97.2k"),
        (123_456_789, "123.M"),
        (9.177151136957274e305, "9.18e305"),
        (0.05, "0.0500"),
        (1.23e-9, "1.23e-09"),
    ],
)
def test_three_digits_of_every_number(value: float, text: str) -> None:
    assert figure(value) == text.replace("123.M", "123M")


def test_a_chart_reaches_from_nothing_to_the_largest() -> None:
    assert spark([0, 1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇██"
    assert spark([0.0, 0.0]) == "▁▁"
    assert spark([]) == ""
    assert spark([0, 8], ascii_only=True) == ".@"


def status(**changes: object) -> DeltaVStatus:
    facts: dict[str, object] = {
        "value": 9.0,
        "since": "2026-11-20T12:00:00.000Z",
        "samples": 3,
        "window_value": 3.42,
        "spark": [1.0, 2.0],
        "confidence": "high",
    }
    return DeltaVStatus(**(facts | changes))  # type: ignore[arg-type]


def test_the_line_of_the_status() -> None:
    assert delta_v_line(status()) == "3.42 over 1h (▅█)"
    assert delta_v_line(status(), ascii_only=True) == "3.42 over 1h (+@)"
    assert delta_v_line(status(confidence="low")) == "3.42 over 1h (▅█), low confidence"
    assert delta_v_line(status(samples=0, window_value=None, spark=[])) == "no sample yet"
    assert delta_v_line(status(window_value=None, samples=0, reason="because")) == "because"
    assert delta_v_line(status(window_value=None)) == "nothing within 1h"
