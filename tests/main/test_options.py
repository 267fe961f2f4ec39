"""The options of `run` and `dev`: short cut and argparse read the same."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.main.options import Options, parse_options

WORDS = st.sampled_from(
    [
        "--config",
        "--state-dir",
        "--socket",
        "--log-level",
        "--log-leve",
        "--offline",
        "--offl",
        "--config=x",
        "debug",
        "loud",
        "",
        "-",
        "a b",
    ]
)


def by_argparse(argv: list[str]) -> Options | None:
    """What argparse alone makes of them; None for a refusal."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for flag in ("--config", "--state-dir", "--socket"):
        parser.add_argument(flag)
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--offline", action="store_true")
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        return None
    return None if rest else Options(**vars(options))


@given(st.lists(WORDS, max_size=6))
def test_every_command_line_reads_as_argparse_reads_it(argv: list[str]) -> None:
    found = parse_options(argv, prog="ambientd run", text="")
    assert (2 if (expected := by_argparse(argv)) is None else expected) == found


def test_the_last_one_counts() -> None:
    found = parse_options(["--socket", "a", "--socket", "b"], prog="ambientd run", text="")
    assert found == Options(socket="b")


def test_offline_takes_no_value_and_stands_anywhere() -> None:
    for argv in (["--offline", "--socket", "a"], ["--socket", "a", "--offline"]):
        assert parse_options(argv, prog="ambientd run", text="") == Options(socket="a", offline=True)


def test_a_level_becomes_the_last_layer_of_the_configuration() -> None:
    layers = Options(log_level="debug").layers()
    assert [(layer.origin, layer.values) for layer in layers] == [
        ("--log-level", {"log": {"level": "debug"}})
    ]
    assert Options().layers() == ()


def test_help_ends_well_and_a_mistake_as_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_options(["--help"], prog="ambientd run", text="What it does.") == 0
    assert "What it does." in capsys.readouterr().out
    assert parse_options(["--log-level", "loud"], prog="ambientd run", text="") == 2
    assert "invalid choice" in capsys.readouterr().err
