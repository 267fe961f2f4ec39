import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.config.locate import Lines
from ambientd.config.toml import TomlMistake, read_key, read_toml, read_toml_value


def test_the_first_mistake_comes_with_its_place() -> None:
    mistake = read_toml("a = 1\nb = [1,\nc = 2\n")
    assert isinstance(mistake, TomlMistake)
    assert (mistake.line, mistake.column) == (3, 1)


def test_a_mistake_at_the_end_names_the_last_line() -> None:
    mistake = read_toml('a = "x\n')
    assert isinstance(mistake, TomlMistake)
    assert mistake.line == 1
    mistake = read_toml("a = [1,\n")
    assert isinstance(mistake, TomlMistake)
    assert (mistake.line, "at the end of the file" in mistake.what) == (1, True)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 200_000,
        "a" + ".a" * 400_000 + " = 1",
        "x = {" + "a." * 300_000 + "a = 1}",
        "a = " + "9" * 500_000,
        "a" * 900_000,
        "a " * 400_000,
        "\n" * 900_000 + "=",
    ],
    ids=["deep", "endless key", "endless inline key", "many digits", "long word", "many words", "many lines"],
)
def test_hostile_text_is_a_mistake_and_soon(text: str) -> None:
    assert isinstance(read_toml(text), TomlMistake)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    assert isinstance(read_toml(text), (dict, TomlMistake))
    read_key(text)
    read_toml_value(text)
    Lines(text)


def test_one_value_is_exactly_one() -> None:
    assert read_toml_value('["a", "b"]') == ["a", "b"]
    assert read_toml_value("30s") is None
    assert read_toml_value("1\nother = 2") is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("log.level", ("log", "level")),
        ('agents."a b".x', ("agents", "a b", "x")),
        ("", None),
        ("a b", None),
        ("a = 1\nb", None),
        ("[a]\nb", ("a", "b")),
    ],
)
def test_a_dotted_key_is_read_as_toml_reads_it(text: str, parts: tuple[str, ...] | None) -> None:
    assert read_key(text) == parts


def test_lines_are_found_by_key() -> None:
    lines = Lines('x.y = 1\n[dispatcher]\n# interval = 2\ninterval = "1s"\n[agents."a.b"]\nenv = { K = 1 }\n')
    assert lines.of(("x", "y")) == 1
    assert lines.of(("dispatcher", "interval")) == 4
    assert lines.of(("agents", "a.b", "env", "K")) == 6
    assert lines.of(("agents",)) == 5
    assert lines.of(("agents", "a.b", "command")) == 5
    assert lines.of(("nothing",)) is None
