"""Usage and the performance matrix for people: cells of tables, and small bars on a terminal."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ambientctl import client as wire
from ambientctl.client import Document
from ambientctl.output import Cell, Column, Item, Screen
from ambientctl.text import count, duration, inert, tokens
from ambientd.wire.enums import MatrixSplit, UsageGroup

BAR_WIDTH = 16
MEDIAN_COST_DIGITS = 4
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# Figures are what these tables are for; a long name of a model gives way to them.
NAME_MIN = 16
_DAYS = {"d": 1, "w": 7}
_CHARTED = {"costUsd": "BY COST", "tokens": "BY TOKENS", "runs": "BY RUNS"}

_KEYS = {
    UsageGroup.DAY: ("DAY", "date"),
    UsageGroup.WEEK: ("WEEK OF", "date"),
    UsageGroup.AGENT: ("AGENT", "agentId"),
    UsageGroup.MODEL: ("MODEL", "modelId"),
    UsageGroup.TASK: ("TASK", "taskCategory"),
}
_SPLITS = {MatrixSplit.AGENT: ("AGENT", "agentId"), MatrixSplit.TASK: ("TASK", "taskCategory")}


def day_of(text: str, at: float) -> str | None:
    """The UTC day that a wish of whole days names: `2026-11-20`, or the one `7d` or `2w` ago; else None.

    Raises ValueError for a day that is in no calendar, OverflowError for one before it.
    """
    steps = _DAYS.get(text[-1:], 0)
    if steps and text[:-1].isascii() and text[:-1].isdigit():
        return (datetime.fromtimestamp(at, UTC) - timedelta(days=int(text[:-1]) * steps)).date().isoformat()
    if len(text) == len("2026-11-20"):
        return datetime.fromisoformat(text).date().isoformat()
    return None


def bar(share: float, screen: Screen, width: int = BAR_WIDTH) -> str:
    """A bar for a share from 0 to 1; whatever is more than nothing shows as something."""
    share = min(max(share, 0.0), 1.0)
    if screen.ascii:
        return "#" * (max(1, round(share * width)) if share else 0)
    eighths = max(1, round(share * width * 8)) if share else 0
    whole, rest = divmod(eighths, 8)
    return _EIGHTHS[8] * whole + (_EIGHTHS[rest] if rest else "")


def money(usd: float | None, *, known: int, runs: int, digits: int = 2) -> str:
    """`$1.20`; `$1.20+` when it is the sum of some of the runs only; `-` when nothing is known."""
    if usd is None or (runs and not known):
        return "-"
    return f"${usd:,.{digits}f}{'+' if known < runs else ''}"


# --- usage


def _sum_text(item: Item, key: str, known: str) -> str:
    """A sum in short, with a plus when some of the runs have no figure."""
    runs, have = wire.whole(item, "runs"), wire.whole(item, known)
    if runs and not have:
        return "-"
    value = wire.number(item, key) or 0
    text = duration(value / 1000) if key == "runtimeMs" else tokens(value)
    return text + ("+" if have < runs else "")


def _cost(item: Item, _screen: Screen) -> str:
    known, runs = wire.whole(item, "costKnown"), wire.whole(item, "runs")
    return money(wire.number(item, "costUsd"), known=known, runs=runs)


def usage_columns(group: UsageGroup) -> list[Column]:
    """The columns of a series; what is known of prompt and completion only in wide ones."""
    title, key = _KEYS[group]
    return [
        Column(title, key, lambda item, _: inert(wire.text(item, key)) or "-", least=NAME_MIN),
        Column("RUNS", "runs", lambda item, _: count(wire.whole(item, "runs")), right=True),
        Column("TOKENS", "tokens", lambda item, _: _sum_text(item, "tokens", "tokensKnown"), right=True),
        Column(
            "PROMPT",
            "promptTokens",
            lambda item, _: tokens(wire.number(item, "promptTokens")),
            right=True,
            only_wide=True,
        ),
        Column(
            "COMPLETION",
            "completionTokens",
            lambda item, _: tokens(wire.number(item, "completionTokens")),
            right=True,
            only_wide=True,
        ),
        Column("TIME", "runtimeMs", lambda item, _: _sum_text(item, "runtimeMs", "runtimeKnown"), right=True),
        Column("COST", "costUsd", _cost, right=True),
    ]


def usage_chart(items: Sequence[Document]) -> Column:
    """A bar for each item: of its cost, where nothing cost anything of its tokens, else of its runs."""
    most, key = 0.0, "runs"
    for key in ("costUsd", "tokens", "runs"):
        most = max((wire.number(item, key) or 0 for item in items), default=0)
        if most > 0:
            break

    def show(item: Item, screen: Screen) -> Cell:
        return Cell(bar((wire.number(item, key) or 0) / most if most else 0, screen), "cyan")

    return Column(_CHARTED[key], key, show)


def without_empty_start(items: list[Document]) -> list[Document]:
    """A person need not look at the time before the first run."""
    first = next((place for place, item in enumerate(items) if wire.whole(item, "runs")), len(items))
    return items[first:]


def usage_lines(document: Document) -> list[str]:
    """The totals, and where the costs come from."""
    totals = wire.part(document, "totals")
    runs, known = wire.whole(totals, "runs"), wire.whole(totals, "costKnown")
    cost = money(wire.number(totals, "costUsd"), known=known, runs=runs)
    total = (
        f"{count(runs)} run{'' if runs == 1 else 's'},"
        f" {_sum_text(totals, 'tokens', 'tokensKnown')} tokens,"
        f" {_sum_text(totals, 'runtimeMs', 'runtimeKnown')}, {cost}."
    )
    sources = wire.part(wire.part(document, "provenance"), "cost")
    reported, derived, missing = (
        count(wire.whole(sources, name)) for name in ("provider_reported", "derived", "missing")
    )
    lines = [total, f"Costs: {reported} reported by the provider, {derived} estimated, {missing} unknown."]
    if any(wire.whole(totals, name) < runs for name in ("costKnown", "tokensKnown", "runtimeKnown")):
        lines.append("+ marks sums of which some runs have no figure.")
    purged = wire.text(document, "purgedBefore")
    if purged:
        lines.append(f"Sessions that ended before {inert(purged)} are removed; their days' sums are kept.")
    return lines


# --- performance


def _share(item: Item, key: str) -> str:
    value = wire.number(item, key)
    return "-" if value is None else f"{value * 100:.1f}%"


def _time(item: Item, key: str) -> str:
    value = wire.number(item, key)
    if value is None:
        return "-"
    return f"{value:.0f}ms" if value < 1000 else duration(value / 1000)


def _median_cost(item: Item, _screen: Screen) -> str:
    return money(wire.number(item, "medianCostUsd"), known=1, runs=1, digits=MEDIAN_COST_DIGITS)


def _runs(item: Item, screen: Screen) -> Cell:
    text = count(wire.whole(item, "runsTotal"))
    few = item.get("sampleWarning") is True
    return Cell(f"{screen.glyph('⚠', '!')} {text}" if few else text, "yellow" if few else "")


def _counted(title: str, key: str, *, only_wide: bool = False) -> Column:
    return Column(title, key, lambda item, _: count(wire.whole(item, key)), right=True, only_wide=only_wide)


def matrix_columns(split: MatrixSplit) -> list[Column]:
    """The columns of the matrix: how often it went well, how long it took, what it cost."""
    columns = [
        Column("MODEL", "modelId", lambda item, _: inert(wire.text(item, "modelId")) or "-", least=NAME_MIN)
    ]
    if split in _SPLITS:
        title, key = _SPLITS[split]
        columns.append(Column(title, key, lambda item, _: inert(wire.text(item, key)) or "-", least=NAME_MIN))
    return [
        *columns,
        Column("RUNS", "runsTotal", _runs, right=True),
        _counted("OK", "successCount"),
        _counted("FAILED", "failureCount"),
        _counted("KILLED", "killedCount"),
        _counted("CANCELLED", "cancelledCount", only_wide=True),
        Column("SUCCESS", "successRate", lambda item, _: _share(item, "successRate"), right=True),
        Column("FAILURE", "failureRate", lambda i, _: _share(i, "failureRate"), right=True, only_wide=True),
        Column("MEDIAN", "medianRuntimeMs", lambda i, _: _time(i, "medianRuntimeMs"), right=True),
        Column("P95", "p95RuntimeMs", lambda item, _: _time(item, "p95RuntimeMs"), right=True),
        Column("COST/RUN", "medianCostUsd", _median_cost, right=True),
    ]


def matrix_programs(split: MatrixSplit) -> list[Column]:
    """What TSV has besides: of how many runs the figures are known, and the warning."""
    return [
        *matrix_columns(split),
        _counted("RUNTIME KNOWN", "runtimeKnown"),
        _counted("COST KNOWN", "costKnown"),
        Column("FEW", "sampleWarning", lambda item, _: str(item.get("sampleWarning") is True).lower()),
    ]


def matrix_chart() -> Column:
    """A bar for each row: its success rate."""

    def show(item: Item, screen: Screen) -> Cell:
        few = item.get("sampleWarning") is True
        return Cell(bar(wire.number(item, "successRate") or 0, screen), "dim" if few else "green")

    return Column("BY SUCCESS", "successRate", show)


def matrix_lines(document: Document) -> list[str]:
    """What a reader of the matrix should know about it."""
    items = wire.rows(document, "rows")
    lines = []
    if any(item.get("sampleWarning") is True for item in items):
        lines.append(
            f"Marked rows have fewer than {wire.whole(document, 'minSample')} runs: chance, not rate."
        )
    failed = sum(wire.whole(item, "failureCount") for item in items)
    if failed:
        lines.append(f"{count(failed)} failed.{_drilldown(items)}")
    purged = wire.text(document, "purgedBefore")
    if purged:
        lines.append(f"Sessions that ended before {inert(purged)} are removed and no longer counted.")
    return lines


_OPTIONS = {
    "agent": "--agent",
    "model": "--model",
    "category": "--category",
    "from": "--since",
    "to": "--until",
}


def _drilldown(items: Sequence[Document]) -> str:
    """Names the command for the failures of the row with most of them; nothing where no option can."""
    worst = max(items, key=lambda item: wire.whole(item, "failureCount"))
    asked = wire.part(worst, "failedDrilldown")
    words = ["ambientctl sessions --status failed"]
    for name, option in _OPTIONS.items():
        value = inert(wire.text(asked, name))
        if value:
            words.append(f"{option} {_quoted(value)}")
        elif name in asked:  # sessions without a category
            return ""
    which = "them" if len(items) == 1 else "those of one row"
    return f" See {which}: {' '.join(words)}"


def _quoted(value: str) -> str:
    """As a shell takes it for one word."""
    plain = all(char.isalnum() or char in "-_./:@%+," for char in value)
    return value if plain else "'" + value.replace("'", "'\\''") + "'"
