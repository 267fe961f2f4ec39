"""The cost of a session: reported, estimated, or not known (R3.177 to R3.185)."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.config.schema import ModelPrices, PricingConfig
from ambientd.core.pricing import (
    PROVIDER_NATIVE,
    UNKNOWN_COST,
    PriceTable,
    Tokens,
    current_table,
    decide,
    named_table,
    price_usage,
)
from ambientd.core.records import UsageRecord
from ambientd.wire.enums import CostConfidence, CostSource, MetricConfidence

AT = datetime(2026, 11, 3, tzinfo=UTC)


def prices(given_input: str, output: str, read: str | None = None, write: str | None = None) -> ModelPrices:
    return ModelPrices(
        input=Decimal(given_input),
        output=Decimal(output),
        cache_read=None if read is None else Decimal(read),
        cache_write=None if write is None else Decimal(write),
    )


TABLE = PriceTable(
    "2026-11",
    {
        "p/one": prices("3", "15", "0.3", "3.75"),
        "p/on*": prices("1", "2"),
        "p/*": prices("0.1", "0.2"),
    },
)


def test_a_reported_cost_is_exact_and_native_whatever_the_table_says() -> None:
    cost = decide(reported=0.42, tokens=Tokens(prompt=10, completion=10), model="p/one", table=TABLE)
    assert cost.usd == 0.42
    assert cost.pricing_version == PROVIDER_NATIVE
    assert cost.source is CostSource.PROVIDER_REPORTED
    assert cost.confidence is CostConfidence.EXACT
    assert cost.level is MetricConfidence.HIGH


def test_a_reported_cost_of_nothing_is_a_cost() -> None:
    assert decide(reported=0.0, tokens=Tokens(), model=None, table=None).usd == 0.0


def test_complete_tokens_give_a_medium_estimate_that_names_its_table() -> None:
    cost = decide(reported=None, tokens=Tokens(prompt=1000, completion=200), model="p/one", table=TABLE)
    assert cost.usd == 0.006
    assert cost.pricing_version == "2026-11"
    assert cost.source is CostSource.ESTIMATED_FROM_PRICING
    assert cost.confidence is CostConfidence.ESTIMATED
    assert cost.level is MetricConfidence.MEDIUM


@pytest.mark.parametrize(
    ("tokens", "usd", "level"),
    [
        (Tokens(prompt=1_000_000), 3.0, MetricConfidence.LOW),
        (Tokens(completion=1_000_000), 15.0, MetricConfidence.LOW),
        (Tokens(total=1_000_000), 3.0, MetricConfidence.LOW),
        (Tokens(prompt=400_000, total=1_000_000), 10.2, MetricConfidence.MEDIUM),
        (Tokens(completion=600_000, total=1_000_000), 10.2, MetricConfidence.MEDIUM),
        (Tokens(prompt=10, completion=10, total=5), 0.00018, MetricConfidence.LOW),
        (Tokens(prompt=10, total=5), 0.00003, MetricConfidence.LOW),
        (Tokens(prompt=0, completion=0), 0.0, MetricConfidence.MEDIUM),
        (Tokens(cache_read=1_000_000), 0.3, MetricConfidence.LOW),
        # beside the prompt, and the total says so
        (
            Tokens(prompt=100, completion=10, cache_read=1000, total=1110),
            0.00075,
            MetricConfidence.MEDIUM,
        ),
        # inside the prompt, and the total says so
        (
            Tokens(prompt=1100, completion=10, cache_read=1000, total=1110),
            0.00075,
            MetricConfidence.MEDIUM,
        ),
        (Tokens(prompt=100, completion=10, cache_write=1000), 0.0042, MetricConfidence.MEDIUM),
    ],
)
def test_an_estimate_is_as_sure_as_its_tokens_are(
    tokens: Tokens, usd: float, level: MetricConfidence
) -> None:
    cost = decide(reported=None, tokens=tokens, model="p/one", table=TABLE)
    assert (cost.usd, cost.level) == (usd, level)


def test_cache_tokens_without_a_price_count_as_input_and_lower_the_confidence() -> None:
    tokens = Tokens(prompt=0, completion=0, cache_read=1_000_000)
    cost = decide(reported=None, tokens=tokens, model="p/other", table=TABLE)
    assert (cost.usd, cost.level) == (0.1, MetricConfidence.LOW)


@pytest.mark.parametrize(
    ("tokens", "model", "table"),
    [
        (Tokens(), "p/one", TABLE),
        (Tokens(prompt=1, completion=1), "other/one", TABLE),
        (Tokens(prompt=1, completion=1), "unknown", PriceTable("v", {"unk*": prices("1", "1")})),
        (Tokens(prompt=1, completion=1), "unknown", PriceTable("v", {"unknown": prices("1", "1")})),
        (Tokens(prompt=1, completion=1), None, TABLE),
        (Tokens(prompt=1, completion=1), "", TABLE),
        (Tokens(prompt=1, completion=1), "p/one", None),
    ],
)
def test_what_cannot_be_known_is_unknown_and_never_zero(
    tokens: Tokens, model: str | None, table: PriceTable | None
) -> None:
    assert decide(reported=None, tokens=tokens, model=model, table=table) == UNKNOWN_COST
    assert UNKNOWN_COST.usd is None
    assert UNKNOWN_COST.pricing_version is None


@pytest.mark.parametrize(
    ("model", "price"), [("p/one", "3"), ("p/ones", "1"), ("p/two", "0.1"), ("p/", "0.1")]
)
def test_the_longest_pattern_wins_and_the_whole_name_before_it(model: str, price: str) -> None:
    found = TABLE.prices(model)
    assert found is not None
    assert found.input == Decimal(price)


def test_a_model_that_is_called_like_a_pattern_does_not_get_its_prices_by_name() -> None:
    assert PriceTable("v", {"q*": prices("1", "1")}).prices("p*") is None


COUNTS = st.none() | st.integers(0, 2**63 - 1)
AMOUNTS = st.decimals(0, 1000, places=6)


@given(COUNTS, COUNTS, AMOUNTS, AMOUNTS)
def test_the_arithmetic_is_exact_to_a_billionth_of_a_dollar(
    prompt: int | None, completion: int | None, given_input: Decimal, output: Decimal
) -> None:
    table = PriceTable("v", {"m": ModelPrices(input=given_input, output=output)})
    cost = decide(reported=None, tokens=Tokens(prompt=prompt, completion=completion), model="m", table=table)
    if prompt is None and completion is None:
        assert cost.usd is None
        return
    exact = (
        Fraction(prompt or 0) * Fraction(given_input) + Fraction(completion or 0) * Fraction(output)
    ) / 10**6
    assert cost.usd is not None
    nano = round(exact * 10**9)  # to even, as the estimate is
    assert cost.usd == float(Fraction(nano, 10**9))


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_an_estimate_always_names_its_table_and_unknown_never_has_a_number(
    prompt: int | None, completion: int | None, total: int | None, read: int | None, write: int | None
) -> None:
    tokens = Tokens(prompt=prompt, completion=completion, total=total, cache_read=read, cache_write=write)
    cost = decide(reported=None, tokens=tokens, model="p/one", table=TABLE)
    assert (cost.usd is None) == (cost.confidence is CostConfidence.UNKNOWN) == (cost.pricing_version is None)
    assert cost.usd is None or cost.usd >= 0


def test_tables_are_found_by_name_and_the_current_one_is_chosen() -> None:
    pricing = PricingConfig(current="b", versions={"a": {}, "b": {"m": prices("1", "1")}})
    assert current_table(pricing) == PriceTable("b", pricing.versions["b"])
    assert named_table(pricing, "a") == PriceTable("a", {})
    assert named_table(pricing, "c") is None
    assert current_table(PricingConfig()) is None


def test_pricing_a_row_leaves_a_reported_cost_alone_and_replaces_an_estimate() -> None:
    reported = UsageRecord(
        session_id="s",
        cost_usd=1.0,
        cost_source=CostSource.PROVIDER_REPORTED,
        cost_confidence=CostConfidence.EXACT,
        pricing_version=PROVIDER_NATIVE,
        computed_at=AT,
    )
    assert price_usage(reported, "p/one", TABLE) is reported
    row = UsageRecord(session_id="s", prompt_tokens=1_000_000, completion_tokens=0, computed_at=AT)
    priced = price_usage(row, "p/one", TABLE)
    assert (priced.cost_usd, priced.pricing_version) == (3.0, "2026-11")
    other = price_usage(priced, "p/one", PriceTable("2027-01", {"p/one": prices("5", "5")}))
    assert (other.cost_usd, other.pricing_version) == (5.0, "2027-01")
    assert price_usage(other, "p/one", None).cost_usd is None
