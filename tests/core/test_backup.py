"""The form of a backup file: names, manifest, and the bytes of the tar."""

import io
import tarfile
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambientd.core.backup import (
    DATABASE,
    FLEET_DATABASE,
    FLEET_FORMAT,
    FORMAT,
    Manifest,
    Member,
    build_manifest,
    encode_manifest,
    is_member_name,
    lay_out,
    read_manifest,
    total_size,
)

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def manifest(*names: str) -> Manifest:
    members = [Member(name=name, bytes=1, sha256="00") for name in names]
    return build_manifest(at=AT, version="1", schema_version=2, counts={"a": 1}, members=members)


@given(st.lists(st.binary(max_size=1500), min_size=1, max_size=5))
def test_the_pieces_are_a_tar_file_that_any_tar_reads(contents: list[bytes]) -> None:
    names = [f"config/{number}" for number in range(len(contents))]
    pieces = lay_out([(name, len(data)) for name, data in zip(names, contents, strict=True)], AT)
    by_name = dict(zip(names, contents, strict=True))
    raw = b"".join(piece.data if piece.data is not None else by_name[piece.name] for piece in pieces)
    assert len(raw) == total_size(pieces)
    assert [piece.offset for piece in pieces] == [sum(p.size for p in pieces[:n]) for n in range(len(pieces))]
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getnames() == names
        for name in names:
            file = tar.extractfile(name)
            assert file is not None
            assert file.read() == by_name[name]
            assert tar.getmember(name).mode == 0o600


def test_a_database_of_more_than_eight_gibibytes_has_a_header_that_says_so() -> None:
    size = 9 * 2**30
    header = lay_out([(DATABASE, size)], AT)[0].data
    assert header is not None
    assert tarfile.TarInfo.frombuf(header[-512:], "utf-8", "strict").name == DATABASE
    assert f"size={size}".encode() in header


def test_a_manifest_is_read_back_as_it_was() -> None:
    found = manifest("config/ambient.toml", DATABASE)
    assert read_manifest(encode_manifest(found)) == found
    assert found.member(DATABASE) is not None
    assert found.member("other") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "ambient.backup/2"}, "does not know"),
        ({"members": []}, "holds no database"),
        ({"members": [{"name": "../x", "bytes": 1, "sha256": ""}]}, "names files that no backup has"),
        ({"members": [{"name": DATABASE, "bytes": 1, "sha256": ""}] * 2}, "names files that no backup has"),
        ({"members": 3}, "cannot be read"),
        ({"counts": {"a": "x"}}, "cannot be read"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(change: dict[str, Any], said: str) -> None:
    raw = msgspec.json.decode(encode_manifest(manifest(DATABASE))) | change
    found = read_manifest(msgspec.json.encode(raw))
    assert isinstance(found, str)
    assert said in found


def test_a_node_and_a_control_plane_do_not_take_each_others_backups() -> None:
    member = [Member(name=FLEET_DATABASE, bytes=1, sha256="00")]
    of_plane = build_manifest(
        at=AT, version="1", schema_version=2, counts={}, members=member, form=FLEET_FORMAT
    )
    assert read_manifest(encode_manifest(of_plane), FLEET_FORMAT) == of_plane
    assert of_plane.database == FLEET_DATABASE
    assert read_manifest(encode_manifest(of_plane)) == "it is a backup of a control plane"
    assert read_manifest(encode_manifest(manifest(DATABASE)), FLEET_FORMAT) == "it is a backup of a node"


def test_bytes_that_are_no_manifest_say_so() -> None:
    assert isinstance(read_manifest(b"\xff"), str)
    assert FORMAT in encode_manifest(manifest(DATABASE)).decode()


@pytest.mark.parametrize(
    ("name", "good"),
    [
        (DATABASE, True),
        ("identity.key", True),
        ("config/ambient.toml", True),
        ("config/conf.d/10-x.toml", True),
        ("config/", False),
        ("secrets/API_KEY_PEPPER", True),
        ("secrets/a/b", False),
        ("secrets/../x", False),
        ("other/x", False),
        ("config/../x", False),
        ("config/.hidden", False),
        ("config/a/b/c", False),
        ("config/a\nb", False),
        ("config\\x", False),
        ("/etc/passwd", False),
        ("manifest.json", False),
        ("config/" + "a" * 300, False),
    ],
)
def test_only_names_that_stay_in_their_folder_are_members(name: str, good: bool) -> None:
    assert is_member_name(name) is good
