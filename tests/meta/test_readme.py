"""README tells all that the code promises to people: each missing thing is named."""

import re
import tomllib

import pytest

from ambientd.config.parse import Layer, Parsed, parse
from ambientd.core.delta_v_words import PARAMETERS
from ambientd.wire import exits
from ambientd.wire.errors import ERRORS
from tests.meta.tree import ROOT

# What a reader must find, by a word of its heading.
SUBJECTS = {
    "how to start": r"start",
    "how to test": r"test",
    "what happens when things are away": r"away",
    "configuration": r"config",
    "where things live": r"where",
    "exit codes": r"exit code",
    "error codes": r"error",
}
COMMANDS = (
    "python3 packaging/dev.py up",
    "python3 packaging/dev.py test",
    "ambientctl status",
    "ambientctl spawn",
)


@pytest.fixture(scope="module")
def readme() -> str:
    path = ROOT / "README.md"
    assert path.exists(), "README.md is missing"
    return path.read_text()


def test_readme_has_a_heading_for_every_subject(readme: str) -> None:
    headings = [line.lower() for line in readme.splitlines() if line.startswith("#")]
    missing = [what for what, sign in SUBJECTS.items() if not any(re.search(sign, h) for h in headings)]
    assert missing == []


def test_readme_says_in_its_first_lines_what_this_is(readme: str) -> None:
    title, _, rest = readme.partition("\n")
    assert title.startswith("# ")
    assert re.match(r"\s*[A-Z][^.\n]{40,}", rest), "after the title comes a sentence"


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_shows_the_command(readme: str, command: str) -> None:
    assert command in readme


def test_readme_lists_every_error_code(readme: str) -> None:
    assert [code for code in ERRORS if f"`{code}`" not in readme] == []


def test_readme_lists_every_exit_code_with_its_meaning(readme: str) -> None:
    rows = [line for line in readme.splitlines() if line.startswith("|")]
    missing = [
        code for code in exits.MEANING if not any(re.match(rf"\| *`?{code}`? *\|", row) for row in rows)
    ]
    assert missing == []


def test_configuration_in_readme_is_accepted_as_it_is(readme: str) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert blocks, "README shows no configuration"
    for block in blocks:
        verdict = parse([Layer("README.md", tomllib.loads(block))])
        assert isinstance(verdict, Parsed), verdict


def test_readme_explains_the_efficiency_metric(readme: str) -> None:
    section = readme.partition("\n## Δv\n")[2].partition("\n## ")[0]
    assert "Isp·η·e^(−α·v0²) · Σ P·e^(−α·w²)·e^(2α·v0·v)/M · dt" in section
    assert "ambientctl delta-v" in section
    assert [item.name for item in PARAMETERS if f"`{item.name}`" not in section] == []
    rows = {row.split("|")[1].strip(" `"): row for row in section.splitlines() if row.startswith("| `")}
    for item in PARAMETERS[:4]:
        assert f"{item.minimum:g} to {item.maximum:g}".replace("e+0", "e") in rows[item.name], item.name
