"""What a session cost: reported by its provider, estimated from a price table, or not known (R3.177–R3.186).

Money is exact decimal inside; an estimate is rounded to a billionth of a dollar, the unit in which the
aggregates add costs up.
"""

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

import msgspec

from ambientd.config.pricing import PROVIDER_NATIVE
from ambientd.config.schema import ModelPrices, PricingConfig
from ambientd.core.records import UNKNOWN_MODEL, UsageRecord
from ambientd.wire.enums import CostConfidence, CostSource, MetricConfidence

__all__ = [
    "PROVIDER_NATIVE",
    "UNKNOWN_COST",
    "Cost",
    "PriceTable",
    "Tokens",
    "current_table",
    "decide",
    "named_table",
    "price_usage",
    "tokens_of",
    "with_cost",
]

_MILLION = Decimal(1_000_000)
_NANO = Decimal("1e-9")
# Prices have at most 17 digits, token counts 19: nothing is rounded before the last step.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)


class PriceTable(NamedTuple):
    """One version of the prices: model, or beginning of a model's name and `*`, to its prices."""

    version: str
    models: Mapping[str, ModelPrices]

    def prices(self, model: str | None) -> ModelPrices | None:
        """The model's own prices, else those of the longest pattern that fits; None when nothing does.

        A model nobody knows has no price, whatever the patterns.
        """
        if not model or model == UNKNOWN_MODEL:
            return None
        own = self.models.get(model) if not model.endswith("*") else None
        if own is not None:
            return own
        fitting = [name for name in self.models if name.endswith("*") and model.startswith(name[:-1])]
        return self.models[max(fitting, key=len)] if fitting else None


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by class; None is unknown. Cache tokens are beside `prompt` unless `total` proves otherwise:
    when it is prompt and completion alone, they are counted inside `prompt`."""

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """A cost with where it came from; `usd` is None exactly when it is not known, never 0 for that."""

    usd: float | None = None
    source: CostSource = CostSource.UNKNOWN
    confidence: CostConfidence = CostConfidence.UNKNOWN
    level: MetricConfidence = MetricConfidence.UNKNOWN
    pricing_version: str | None = None


UNKNOWN_COST = Cost()


def current_table(pricing: PricingConfig) -> PriceTable | None:
    """The table that new costs are estimated with; None when none is chosen."""
    return None if pricing.current is None else named_table(pricing, pricing.current)


def named_table(pricing: PricingConfig, version: str) -> PriceTable | None:
    """The table of that name; None when there is none."""
    models = pricing.versions.get(version)
    return None if models is None else PriceTable(version, models)


def decide(*, reported: float | None, tokens: Tokens, model: str | None, table: PriceTable | None) -> Cost:
    """The cost of a session, by the policy of specification 9.4.

    A reported cost is taken as it is: exact, high, `provider_native`. Without one the table's prices are
    applied to the tokens: medium when prompt and completion are both known (or follow from the total) and
    nothing contradicts them, low when something had to be assumed. What was assumed is a lower bound:
    tokens whose class is not known count at the cheaper of input and output, and what was not reported
    is not charged. Without a cost, tokens or a price: unknown.

    `reported` is finite and not negative (the caller has validated it).
    """
    if reported is not None:
        return Cost(
            usd=reported,
            source=CostSource.PROVIDER_REPORTED,
            confidence=CostConfidence.EXACT,
            level=MetricConfidence.HIGH,
            pricing_version=PROVIDER_NATIVE,
        )
    prices = None if table is None else table.prices(model)
    if table is None or prices is None:
        return UNKNOWN_COST
    bill = _bill(tokens, prices)
    if bill is None:
        return UNKNOWN_COST
    usd = _EXACT.divide(bill.microdollars, _MILLION).quantize(_NANO, context=_EXACT)
    return Cost(
        usd=float(usd),
        source=CostSource.ESTIMATED_FROM_PRICING,
        confidence=CostConfidence.ESTIMATED,
        level=MetricConfidence.LOW if bill.assumed else MetricConfidence.MEDIUM,
        pricing_version=table.version,
    )


class _Bill(NamedTuple):
    """Tokens times USD per million, and whether something was assumed on the way."""

    microdollars: Decimal
    assumed: bool


def _bill(tokens: Tokens, prices: ModelPrices) -> _Bill | None:
    found = (tokens.prompt, tokens.completion, tokens.total, tokens.cache_read, tokens.cache_write)
    if all(count is None for count in found):
        return None
    cached = (tokens.cache_read or 0) + (tokens.cache_write or 0)
    prompt, completion, assumed = _split(tokens, cached)
    cheaper = min(prices.input, prices.output)
    unsplit = 0
    if prompt is None and completion is None:
        unsplit = max(0, (tokens.total or 0) - cached)
    lines = [
        (prompt or 0, prices.input),
        (completion or 0, prices.output),
        (unsplit, cheaper),
        *_cache_lines(tokens, prices),
    ]
    unpriced = (tokens.cache_read and prices.cache_read is None) or (
        tokens.cache_write and prices.cache_write is None
    )
    amount = Decimal(0)
    for count, price in lines:
        amount = _EXACT.add(amount, _EXACT.multiply(Decimal(count), price))
    return _Bill(amount, assumed or bool(unpriced))


def _cache_lines(tokens: Tokens, prices: ModelPrices) -> list[tuple[int, Decimal]]:
    """Cache tokens at their own price, else at that of input."""
    read = prices.input if prices.cache_read is None else prices.cache_read
    write = prices.input if prices.cache_write is None else prices.cache_write
    return [(tokens.cache_read or 0, read), (tokens.cache_write or 0, write)]


def _split(tokens: Tokens, cached: int) -> tuple[int | None, int | None, bool]:
    """Prompt and completion tokens outside the cache, and whether they rest on an assumption."""
    prompt, completion, total = tokens.prompt, tokens.completion, tokens.total
    if prompt is None or completion is None:
        return _complete(tokens, cached)
    if total is None:
        return prompt, completion, False
    if cached and total == prompt + completion and prompt >= cached:
        return prompt - cached, completion, False
    return prompt, completion, total not in (prompt + completion, prompt + completion + cached)


def _complete(tokens: Tokens, cached: int) -> tuple[int | None, int | None, bool]:
    """The missing one of prompt and completion from the total, where that leaves no doubt."""
    prompt, completion, total = tokens.prompt, tokens.completion, tokens.total
    known = prompt if prompt is not None else completion
    if known is None or total is None or cached or total < known:
        return prompt, completion, True
    rest = total - known
    return (prompt, rest, False) if prompt is not None else (rest, completion, False)


def tokens_of(usage: UsageRecord) -> Tokens:
    """The tokens of a usage row."""
    return Tokens(
        prompt=usage.prompt_tokens,
        completion=usage.completion_tokens,
        total=usage.total_tokens,
        cache_read=usage.cache_read_tokens,
        cache_write=usage.cache_write_tokens,
    )


def with_cost(usage: UsageRecord, cost: Cost) -> UsageRecord:
    """The row with this cost in place of its own."""
    return msgspec.structs.replace(
        usage,
        cost_usd=cost.usd,
        cost_source=cost.source,
        cost_confidence=cost.confidence,
        cost_confidence_level=cost.level,
        pricing_version=cost.pricing_version,
    )


def price_usage(usage: UsageRecord, model: str | None, table: PriceTable | None) -> UsageRecord:
    """The row with its cost decided anew by `table`; a cost the provider reported stays as it is."""
    if usage.cost_source is CostSource.PROVIDER_REPORTED:
        return usage
    cost = decide(reported=None, tokens=tokens_of(usage), model=model, table=table)
    return with_cost(usage, cost)
