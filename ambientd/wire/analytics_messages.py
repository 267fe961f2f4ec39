"""Usage and performance as `/api/v3/analytics` answers them (facts/v3-shapes); keys are only ever added.

Only ended sessions count, each in the bucket of the instant it started at. Sums are of what is known, and
`…Known` says of how many runs that is: a sum of 0 with nothing known is not a measured 0.
`drilldown` holds the parameters of `GET /api/v3/ledger` that list exactly the sessions counted.
"""

import msgspec


class UsageSums(msgspec.Struct, rename="camel"):
    """Sums over some runs. `tokens` is prompt and completion together."""

    runs: int
    tokens: int
    runtime_ms: int
    cost_usd: float
    prompt_tokens: int
    completion_tokens: int
    tokens_known: int
    runtime_known: int
    cost_known: int


class UsagePoint(UsageSums, rename="camel", omit_defaults=True, kw_only=True):
    """Sums of one group, named by the one key that it was grouped by; a week is named by its Monday.

    Sessions without a category are the group that has no `task_category`.
    """

    date: str | None = None
    agent_id: str | None = None
    model_id: str | None = None
    task_category: str | None = None
    drilldown: dict[str, str]


class Provenance(msgspec.Struct):
    """How many runs had a figure from each source."""

    provider_reported: int
    derived: int
    missing: int


class UsageProvenance(msgspec.Struct):
    """Provenance of the three figures."""

    token: Provenance
    runtime: Provenance
    cost: Provenance


class UsageAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """`GET /api/v3/analytics/usage`.

    A series by day or week has a point for every day or week between `from` and `to`, where they are left
    out between the first and the last with runs; one of more than 1,100 has only those with runs.
    `purged_before`: sessions that ended before it are removed; sums of whole UTC days still hold them.
    """

    totals: UsageSums
    provenance: UsageProvenance
    series: list[UsagePoint]
    group_by: str
    tz: str
    purged_before: str | None = None


class MatrixRow(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """One model, or one model with one agent or category when the rows are split by it.

    `success_rate` is success / runs; `failure_rate` is failed / (success + failed), null when there are
    none of either. Medians and the nearest-rank 95th percentile are over the known figures, of which
    `runtime_known` and `cost_known` runs have one, and null when there is none. A session that was
    cancelled before it ran has no runtime. `sample_warning`: fewer runs than `minSample`.
    """

    model_id: str
    agent_id: str | None = None
    task_category: str | None = None
    runs_total: int
    success_count: int
    failure_count: int
    killed_count: int
    cancelled_count: int
    success_rate: float
    failure_rate: float | None
    median_runtime_ms: float | None
    p95_runtime_ms: int | None
    runtime_known: int
    median_cost_usd: float | None
    cost_known: int
    sample_warning: bool
    drilldown: dict[str, str]
    failed_drilldown: dict[str, str]


class MatrixAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """`GET /api/v3/analytics/performance`, most runs first.

    A matrix of very many sessions may be up to a minute old: `computed_at` says when it was made.
    `purged_before`: sessions that ended before it are removed and no longer counted.
    """

    rows: list[MatrixRow]
    min_sample: int
    computed_at: str
    purged_before: str | None = None
