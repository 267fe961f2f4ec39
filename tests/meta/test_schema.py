"""Every setting is described where it is declared."""

import dataclasses
import typing
from enum import StrEnum

import pytest

from ambientd.config import schema
from ambientd.config.schema import AgentConfig, AlertsConfig, Config, NotifierConfig

KEYED = [AgentConfig, NotifierConfig]
SECTIONS = [f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)] + KEYED
# The names of tables, and tables inside a section: no settings.
NO_SETTINGS = {(AgentConfig, "id"), (NotifierConfig, "id"), (AlertsConfig, "notifiers")}
FIELDS = [
    pytest.param(section, field, id=f"{section.__name__}.{field.name}")
    for section in typing.cast("list[type]", SECTIONS)
    for field in dataclasses.fields(section)
    if (section, field.name) not in NO_SETTINGS
]


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_setting_has_a_sentence(section: type, field: "dataclasses.Field[object]") -> None:
    text = field.metadata.get("doc", "")
    assert text.endswith("."), f"{section.__name__}.{field.name} has no sentence"
    assert len(text) > 10


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_a_default_lies_within_its_own_range(section: type, field: "dataclasses.Field[object]") -> None:
    low, high, value = field.metadata["minimum"], field.metadata["maximum"], field.default
    if isinstance(value, (int, float)):
        assert low is None or value >= low
        assert high is None or value <= high


def test_every_section_says_what_it_is_for() -> None:
    assert [s.__name__ for s in typing.cast("list[type]", SECTIONS) if not s.__doc__] == []


def test_every_choice_says_what_it_chooses() -> None:
    choices = [
        value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, StrEnum)
    ]
    assert [choice.__name__ for choice in choices if not choice.__doc__] == []
