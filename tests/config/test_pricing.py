"""`[pricing]`: tables by version and model."""

import tomllib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.config.parse import Layer, Parsed, parse
from ambientd.config.pricing import PROVIDER_NATIVE
from ambientd.config.schema import Config, ModelPrices

TABLE = """
[pricing]
current = "2026-11"

[pricing.versions."2026-11".models."provider/model-1"]
input = 3
output = 15.0
cache_read = 0.3

[pricing.versions."2026-11".models."provider/*"]
input = 0.1
output = 0.25

[pricing.versions."2026-05".models."provider/model-1"]
input = 4
output = 20
"""


def config_of(*texts: str) -> Config:
    outcome = parse([(f"file {number}", tomllib.loads(text)) for number, text in enumerate(texts, 1)])
    assert isinstance(outcome, Parsed), [problem.text for problem in outcome]
    return outcome.config


def problems_of(*texts: str) -> list[str]:
    outcome = parse([(f"file {number}", tomllib.loads(text)) for number, text in enumerate(texts, 1)])
    assert isinstance(outcome, list)
    return [problem.text for problem in outcome]


def test_several_versions_are_kept_and_prices_are_what_the_file_says() -> None:
    pricing = config_of(TABLE).pricing
    assert pricing.current == "2026-11"
    assert list(pricing.versions) == ["2026-11", "2026-05"]
    assert pricing.versions["2026-11"] == {
        "provider/model-1": ModelPrices(
            input=Decimal(3), output=Decimal("15.0"), cache_read=Decimal("0.3"), cache_write=None
        ),
        "provider/*": ModelPrices(input=Decimal("0.1"), output=Decimal("0.25")),
    }


def test_without_the_section_there_are_no_prices() -> None:
    assert config_of("").pricing.versions == {}
    assert config_of("").pricing.current is None


def test_a_later_file_replaces_one_price_and_keeps_the_others() -> None:
    pricing = config_of(TABLE, '[pricing.versions."2026-11".models."provider/model-1"]\noutput = 12').pricing
    found = pricing.versions["2026-11"]["provider/model-1"]
    assert found == ModelPrices(input=Decimal(3), output=Decimal(12), cache_read=Decimal("0.3"))


def test_origins_are_those_of_each_price() -> None:
    outcome = parse([Layer("file", tomllib.loads(TABLE))])
    assert isinstance(outcome, Parsed)
    assert outcome.provenance['pricing.versions.2026-11.models."provider/model-1".input'] == "file"


RANGE = "a number of USD per million tokens from 0 to 1000000"
NATIVE = "another name: this one marks costs that a provider reported"
FLAT = 'more than "*": a model without a price of its own has an unknown cost, not a flat one'
STAR = 'a model, or the beginning of its name with one "*" at the end'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'current = "2026-1"\nversions."2026-11".models.m = {input = 1, output = 1}',
            'pricing.current is "2026-1", which is not in pricing.versions. Did you mean "2026-11"?',
        ),
        ('current = "x"', 'pricing.current is "x", which is not in pricing.versions.'),
        ("versions.v.models.m = {input = 1}", "pricing.versions.v.models.m.output is missing."),
        ("versions.v.models.m = {}", "pricing.versions.v.models.m has no prices."),
        (
            "versions.v.models.m = {input = -1, output = 1}",
            f"pricing.versions.v.models.m.input is -1, but must be {RANGE}.",
        ),
        (
            'versions.v.models.m = {input = "$2.5", output = 1}',
            f'pricing.versions.v.models.m.input is "$2.5", but must be {RANGE}. Did you mean 2.5?',
        ),
        (
            "versions.v.models.m = {input = 1, output = 1, cache_reads = 1}",
            "pricing.versions.v.models.m.cache_reads is not a setting. Did you mean cache_read?",
        ),
        ("versions.v.model.m = {}", "pricing.versions.v.model is not a setting. Did you mean models?"),
        ("versions.v = 3", "pricing.versions.v is 3, but must be a table."),
        ("versions.v.models.m = 3", "pricing.versions.v.models.m is 3, but must be a table."),
        ("versions = 3", "pricing.versions is 3, but must be tables of prices by version and model."),
        (
            "versions.provider_native.models.m = {input = 1, output = 1}",
            f"pricing.versions.provider_native must have {NATIVE}.",
        ),
        (
            'versions.v.models."*" = {input = 1, output = 1}',
            f'pricing.versions.v.models."*" must be {FLAT}.',
        ),
        (
            'versions.v.models."a*b" = {input = 1, output = 1}',
            f'pricing.versions.v.models."a*b" must be {STAR}.',
        ),
    ],
)
def test_a_problem_is_told_like_the_others(text: str, said: str) -> None:
    assert problems_of(f"[pricing]\n{text}") == [f"file 1: {said}"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "true", "1000001", "1e300", "9" * 400, "[1]"])
def test_only_a_number_in_range_is_a_price(value: str) -> None:
    (problem,) = problems_of(f"pricing.versions.v.models.m = {{input = {value}, output = 1}}")
    assert "pricing.versions.v.models.m.input is " in problem


def test_text_spells_prices_where_every_value_is_text() -> None:
    path = {
        "versions": {"v": {"models": {"m": {"input": "3", "output": "0.5"}, "n*": "{input=1, output=2}"}}}
    }
    outcome = parse([Layer("variables", {"pricing": {"current": "v", **path}}, textual=True)])
    assert isinstance(outcome, Parsed), [problem.text for problem in outcome]
    assert outcome.config.pricing.versions["v"] == {
        "m": ModelPrices(input=Decimal(3), output=Decimal("0.5")),
        "n*": ModelPrices(input=Decimal(1), output=Decimal(2)),
    }
    wrong = {"versions": {"v": {"models": {"m": {"input": "cheap", "output": "true"}}}}}
    problems = parse([Layer("variables", {"pricing": wrong}, textual=True)])
    assert isinstance(problems, list)
    assert [problem.path for problem in problems] == [
        f"pricing.versions.v.models.m.{n}" for n in ("input", "output")
    ]


def test_a_table_that_is_nowhere_is_missing_and_one_of_another_name_is_wrong() -> None:
    alone = parse([Layer("x", {"pricing": {"current": "v"}})])
    assert isinstance(alone, list)
    assert [problem.missing for problem in alone] == [True]
    other = parse([Layer("x", tomllib.loads(TABLE.replace('current = "2026-11"', 'current = "v"')))])
    assert isinstance(other, list)
    assert [problem.missing for problem in other] == [False]


def test_all_problems_are_told_at_once() -> None:
    text = "pricing.versions.v.models = {a = {input = 1}, b = {output = -1, input = 1}, c = 1}"
    assert len(problems_of(text)) == 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(["models", "m", "input", "output", "cache_read", "*", "v", PROVIDER_NATIVE])
        | st.text(),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)


@given(VALUES)
def test_no_value_raises(value: Any) -> None:
    assert isinstance(parse([("x", {"pricing": {"versions": value}})]), (Parsed, list))
