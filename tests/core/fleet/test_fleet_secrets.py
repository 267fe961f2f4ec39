"""R1.68 to R1.73: which secrets there must be, and what is said when they are not."""

import pytest

from ambientd.core.fleet.secrets import SecretName, judge_secrets

GOOD = {name: f"{index}0123456789abcdef0123456789abcdef" for index, name in enumerate(SecretName)}


def test_good_ones_are_taken_in_production() -> None:
    judged = judge_secrets(GOOD, production=True)
    assert judged.problems == judged.warnings == ()
    assert judged.values == {name: value.encode() for name, value in GOOD.items()}


@pytest.mark.parametrize("name", SecretName)
@pytest.mark.parametrize(
    "value", [None, "", "short", "change-me", "change-me-change-me-change-me-change-me", "a" * 40]
)
def test_each_one_that_is_missing_short_or_a_placeholder_is_named(
    name: SecretName, value: str | None
) -> None:
    judged = judge_secrets({**GOOD, name: value}, production=True)
    assert len(judged.problems) == 1
    assert judged.problems[0].startswith(name.value)
    assert not value or value not in judged.problems[0].removeprefix(name.value)


def test_all_are_named_at_once() -> None:
    problems = judge_secrets({}, production=True).problems
    assert [problem.split()[0] for problem in problems] == [name.value for name in SecretName]


def test_two_of_one_value_are_refused() -> None:
    first, second, *_ = SecretName
    (problem,) = judge_secrets({**GOOD, second: GOOD[first]}, production=True).problems
    assert problem.startswith(second.value)
    assert first.value in problem


def test_development_has_defaults_that_differ_and_warns_once_for_each() -> None:
    judged = judge_secrets({}, production=False)
    assert judged.problems == ()
    assert [warning.split()[0] for warning in judged.warnings] == [name.value for name in SecretName]
    assert len(set(judged.values.values())) == len(SecretName)


@pytest.mark.parametrize("word", ["dev", "test", "local", "Dev"])
def test_a_random_secret_may_hold_a_word_by_chance(word: str) -> None:
    value = f"x9{word}7Qz4Jm1Kp0Ls8Rt2Vw6Yb3Nc5Hg=="
    judged = judge_secrets({**GOOD, SecretName.API_KEY_PEPPER: value}, production=True)
    assert judged.problems == ()


@pytest.mark.parametrize("value", ["", "   "])
def test_an_empty_one_is_refused_in_development_too(value: str) -> None:
    judged = judge_secrets({**GOOD, SecretName.API_KEY_PEPPER: value}, production=False)
    assert [problem.split()[0] for problem in judged.problems] == ["API_KEY_PEPPER"]
