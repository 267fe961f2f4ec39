import os
import tempfile
from pathlib import Path

import pytest

from ambientd.config.parse import Layer
from ambientd.host.config_files import MAX_FILE_SIZE, MAX_FILES, LoadedConfig, load

NOBODY = 65534


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o644)
    return path


def loaded(main: Path, **environ: str) -> LoadedConfig:
    return load(environ, os.geteuid(), config=str(main))


def texts(result: LoadedConfig, main: Path) -> list[str]:
    assert result.config is None
    return [problem.text.replace(str(main), "main") for problem in result.problems]


def test_files_variables_and_flags_are_layers_in_this_order(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", '[dispatcher]\ninterval = "10s"\nactor = "a"\n[node]\nname = "a"\n')
    put(tmp_path / "conf.d/20.toml", '[dispatcher]\ninterval = "20s"\n')
    put(tmp_path / "conf.d/10.toml", '[dispatcher]\ninterval = "11s"\n[spool]\nkeep_at_least = 7\n')
    put(tmp_path / "conf.d/.30.toml", "not read")
    put(tmp_path / "conf.d/40.toml.bak", "not read")
    flags = [Layer("--log-level flag", {"log": {"level": "debug"}})]
    environ = {"AMBIENT__NODE__NAME": "b", "AMBIENT__LOG__LEVEL": "error", "AMBIENT_CONFIG": str(main)}
    result = load(environ, os.geteuid(), flags=flags)
    assert result.problems == ()
    assert result.config is not None
    assert (result.config.dispatcher.interval, result.config.dispatcher.actor) == (20.0, "a")
    assert (result.config.node.name, result.config.log.level) == ("b", "debug")
    assert result.sources == (
        str(main),
        "conf.d/10.toml",
        "conf.d/20.toml",
        "environment AMBIENT__LOG__LEVEL",
        "environment AMBIENT__NODE__NAME",
        "--log-level flag",
    )
    assert result.provenance["dispatcher.interval"] == "conf.d/20.toml"
    assert result.provenance["dispatcher.actor"] == str(main)
    assert result.provenance["log.level"] == "--log-level flag"
    assert result.provenance["spool.keep"] == "default"


def test_a_missing_main_file_is_fine_unless_it_was_named(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    result = load(environ, 1000)
    assert result.config is not None
    assert [(file.path, file.text) for file in result.files] == [(f"{tmp_path}/ambient/ambient.toml", None)]
    named = str(tmp_path / "x.toml")
    for result in (load(environ, 1000, config=named), load({"AMBIENT_CONFIG": named}, 1000)):
        assert [problem.text for problem in result.problems] == [f"{named}: does not exist."]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "main: is empty; an interrupted write leaves such a file. Remove it or write it anew."),
        (b"a = 1\n\0", "main:2:1: has a NUL byte; this is not a text file."),
        (b"#" * (10 * 1024 * 1024), "main: is larger than 1024 KiB."),
        (b"#" * (MAX_FILE_SIZE + 1), "main: is larger than 1024 KiB."),
        (b"# ok\n# \xff\n", "main:2:3: is not UTF-8: byte 0xff."),
        (b"\xef\xbb\xbf# x\n", "main:1:1: begins with a byte order mark; save it as plain UTF-8."),
        (b"[dispatcher\n", "main:1:12: is not valid TOML: expected ']' at the end of a table declaration."),
        (b"a = 1\na = 2\n", "main:2:6: is not valid TOML: cannot overwrite a value."),
        (b"\n\n[log]\nlevel = 5\n", None),
    ],
    ids=["empty", "NUL", "10 MB", "1 MiB and a byte", "latin-1", "BOM", "syntax", "twice", "wrong type"],
)
def test_a_bad_main_file_is_refused_with_its_line(tmp_path: Path, content: bytes, text: str | None) -> None:
    main = put(tmp_path / "a.toml", content)
    (said,) = texts(loaded(main), main)
    assert said == text if text else said.endswith("(line 4)")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", "# fine\n")
    link, fifo = tmp_path / "link.toml", tmp_path / "fifo.toml"
    link.symlink_to(main)
    os.mkfifo(fifo)
    said = [problem.what for path in (link, fifo, tmp_path) for problem in loaded(path).problems]
    assert said == [
        "is a symbolic link; put the file itself here",
        "is not a regular file",
        "is a directory",
    ]
    assert "NUL" in loaded(Path("a\0b")).problems[0].what


def test_a_file_that_everyone_can_change_is_refused(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", "# fine\n")
    main.chmod(0o666)
    assert "chmod o-w" in loaded(main).problems[0].what


def test_problems_of_all_files_come_at_once_in_the_order_of_files(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", '[dispatcher]\n\nintervall = "5s"\n')
    put(tmp_path / "conf.d/10.toml", "[broken\n")
    put(tmp_path / "conf.d/20-gw.toml", "[agents.a]\ntimeout = 5\n[log]\nlevel = 1\n")
    (tmp_path / "conf.d/30.toml").mkdir()
    assert texts(loaded(main, AMBIENT__NODE__NMAE="x"), main) == [
        "main: dispatcher.intervall is not a setting. Did you mean dispatcher.interval? (line 3)",
        "conf.d/10.toml:1:8: is not valid TOML: expected ']' at the end of a table declaration.",
        # agents.a.command may stand in the file that cannot be read, so it does not count as missing
        (
            'conf.d/20-gw.toml: agents.a.timeout is 5, but must be a duration with a unit ("90s", "5m", '
            '"1h30m") from 100ms to 30d. Did you mean "5s"? (line 2)'
        ),
        (
            'conf.d/20-gw.toml: log.level is 1, but must be one of "debug", "info", "warning", "error". '
            "(line 4)"
        ),
        "conf.d/30.toml: is a directory.",
        "environment AMBIENT__NODE__NMAE: node.nmae is not a setting. Did you mean node.name?",
    ]


def test_the_folder_is_read_in_the_order_of_names_however_they_were_made(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", "# fine\n")
    names = [f"{number:02}.toml" for number in range(12)]
    for name in [*names[1::2], *reversed(names[::2])]:
        put(tmp_path / "conf.d" / name, "# fine\n")
    assert loaded(main).sources == (str(main), *(f"conf.d/{name}" for name in names))


def test_a_folder_with_too_many_files_is_refused(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", "# fine\n")
    for number in range(MAX_FILES + 1):
        put(tmp_path / f"conf.d/{number}.toml", "# fine\n")
    assert texts(loaded(main), main) == ["conf.d: holds 257 files; at most 256 are read."]


def test_odd_file_names_are_printed_safely(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", "# fine\n")
    put(tmp_path / "conf.d/\x1b[31m\n.toml", "x = 1\n")
    (text,) = texts(loaded(main), main)
    assert text.isprintable()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else and back")
def test_files_that_cannot_be_read_or_belong_to_others_are_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        main = put(folder / "a.toml", "# fine\n")
        drop = put(folder / "conf.d/1.toml", "# fine\n")
        os.chown(drop, NOBODY, NOBODY)
        assert f"belongs to user {NOBODY}, not to user 0" in loaded(main).problems[0].what
        main.chmod(0o600)
        os.seteuid(NOBODY)
        try:
            assert [problem.what for problem in loaded(main).problems] == [
                "cannot be read: permission denied"
            ]
        finally:
            os.seteuid(0)


def test_a_text_can_stand_in_for_the_main_file(tmp_path: Path) -> None:
    result = load({}, 0, config=str(tmp_path / "a.toml"), main_text='[node]\nname = "x"\n')
    assert result.config is not None
    assert result.config.node.name == "x"


def test_a_thousand_problems_find_their_lines_soon(tmp_path: Path) -> None:
    main = put(tmp_path / "a.toml", "".join(f"key{number} = 1\n" for number in range(50_000)))
    problems = loaded(main).problems
    assert len(problems) == 1001
    assert all(problem.line for problem in problems[:-1])
