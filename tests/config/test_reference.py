import re
import tomllib

from ambientd.config.fields import Shape, sections
from ambientd.config.parse import Parsed, parse
from ambientd.config.reference import markdown_table, reference_rows, spell
from ambientd.config.schema import AgentConfig, Config
from ambientd.config.template import default_file


def uncommented(text: str) -> str:
    return re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE)


def test_every_setting_and_section_is_documented() -> None:
    for section in sections().values():
        assert section.doc.endswith("."), section.name
        for setting in section.settings.values():
            assert setting.doc.endswith("."), f"{section.name}.{setting.name}"
            assert setting.expected
            assert setting.default is not None or setting.example, (
                f"{section.name}.{setting.name} shows no example"
            )


def test_every_default_is_within_its_own_bounds() -> None:
    for section in sections().values():
        for setting in section.settings.values():
            if (
                setting.shape in {Shape.DURATION, Shape.SIZE, Shape.INTEGER, Shape.NUMBER}
                and setting.default is not None
            ):
                assert setting.minimum is None or setting.default >= setting.minimum
                assert setting.maximum is None or setting.default <= setting.maximum


def test_the_default_file_changes_nothing() -> None:
    assert tomllib.loads(default_file()) == {}


def test_the_default_file_without_its_comment_marks_is_the_whole_schema() -> None:
    outcome = parse([("init", tomllib.loads(uncommented(default_file())))])
    assert isinstance(outcome, Parsed), [problem.text for problem in outcome]
    written = {key for key, origin in outcome.provenance.items() if origin == "init"}
    known = {row.key.replace("<id>", "example") for row in reference_rows()}
    # An empty table sets nothing; of price tables every single price is written.
    assert known - written == {"agents.example.environment", "pricing.versions"}
    assert any(key.startswith("pricing.versions.") for key in written)
    for name in ("dispatcher", "heartbeat", "spool", "sessions", "ledger", "log"):
        left, right = getattr(outcome.config, name), getattr(Config(), name)
        for field in sections()[name].settings.values():
            if field.default is not None:
                assert getattr(left, field.name) == getattr(right, field.name)
    assert isinstance(outcome.config.agents["example"], AgentConfig)


def test_lines_of_the_default_file_fit_a_screen() -> None:
    assert max(map(len, default_file().split("\n"))) <= 140


def test_the_table_has_a_row_per_setting() -> None:
    lines = markdown_table().splitlines()
    assert len(lines) == 2 + len(reference_rows())
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in lines)
    assert '| `dispatcher.interval` | duration | `"60s"` | from 100ms to 60s |' in markdown_table()


def test_a_number_is_spelled_so_that_it_comes_back() -> None:
    setting = sections()["delta_v"].settings["alpha"]
    for number in (0.1, 1.0, 0.0, 2.5e-7, 123456.75, 1e300, 5e-324):
        assert tomllib.loads(f"x = {spell(setting, number)}")["x"] == number
    assert spell(setting, 1.0) == "1"
    assert setting.range == "from 0 to 10"
