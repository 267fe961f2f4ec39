"""An issuer's tool: keys, drafts, bundles that are brought up to date."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ambientd.core.ed25519 import parse_key
from ambientd.core.policy import LIFE_MAX_MS, Policy, Tombstone, parse_body
from ambientd.core.policybundle import item_of
from ambientd.core.policydraft import parse_draft
from ambientd.core.signeditem import SignedItem
from ambientd.main.policy import run
from ambientd.wire import exits
from ambientd.wire.policy_messages import PolicyItem
from tests.policykit import AT

DRAFT = """
network = "fleet-1"
[[policy]]
id = "web"
revision = 3
destinations = ["HTTPS://Api.Example.com/", "*.Bücher.example"]
protocols = ["https"]
valid_for = "90d"
[[tombstone]]
id = "old"
revision = 7
"""


class Tool:
    """Runs the verb in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.key = folder / "issuer.key"
        self.bundle = folder / "fleet.ndjson"

    def __call__(self, *argv: str, code: int = exits.DONE) -> tuple[str, str]:
        self._capsys.readouterr()
        assert run(list(argv)) == code
        told = self._capsys.readouterr()
        return told.out, told.err

    def sign(self, draft: str = DRAFT, *more: str, code: int = exits.DONE) -> str:
        source = self.folder / "fleet.toml"
        source.write_text(draft)
        arguments = ("sign", "--key", str(self.key), str(source), "-o", str(self.bundle), *more)
        return self(*arguments, code=code)[1]

    def items(self) -> list[SignedItem]:
        found = [item_of(PolicyItem(**json.loads(line))) for line in self.bundle.read_text().splitlines()]
        good = [item for item in found if isinstance(item, SignedItem)]
        assert good == found
        return good


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    found = Tool(tmp_path, capsys)
    found("new-key", str(found.key))
    return found


def test_a_key_is_private_and_never_overwritten(tool: Tool) -> None:
    before = tool.key.read_bytes()
    assert stat.S_IMODE(tool.key.stat().st_mode) == 0o600
    out, err = tool("new-key", str(tool.key), code=exits.FAILED)
    assert (out, "not overwritten" in err) == ("", True)
    assert tool.key.read_bytes() == before
    link = tool.folder / "link"
    link.symlink_to(tool.folder / "elsewhere")
    tool("new-key", str(link), code=exits.FAILED)
    assert not (tool.folder / "elsewhere").exists()
    out, err = tool("new-key", str(tool.folder / "other.key"), "--json")
    public = json.loads(out)["publicKey"]
    assert parse_key(public) is not None
    assert (tool.folder / "other.key").read_text().strip() not in out + err


def test_a_draft_becomes_a_bundle_that_says_what_was_meant(tool: Tool) -> None:
    told = tool.sign()
    web, old = tool.items()
    assert web.is_genuine
    assert old.is_genuine
    policy, tombstone = parse_body(web.body), parse_body(old.body)
    assert isinstance(policy, Policy)
    assert policy.destinations == ("https://api.example.com", "*.xn--bcher-kva.example")
    assert policy.not_after - policy.not_before == 90 * 86400 * 1000
    assert isinstance(tombstone, Tombstone)
    assert tombstone.not_after == tombstone.issued_at + LIFE_MAX_MS
    assert "web revision 3" in told
    assert "Signed 2 of 2" in told


def test_a_bundle_is_brought_up_to_date(tool: Tool) -> None:
    tool.sign()
    first = tool.items()
    assert "Signed 0 of 2" in tool.sign()
    assert tool.items() == first
    told = tool.sign(DRAFT.replace("revision = 3", "revision = 4").replace("Api", "New"))
    assert "Signed 1 of 2" in told
    assert tool.items()[1] == first[1]
    before = tool.bundle.read_bytes()
    told = tool.sign(DRAFT.replace("revision = 3", "revision = 4"), code=exits.FAILED)
    assert "revision above that" in told
    told = tool.sign(code=exits.FAILED)  # a revision that is lower than before
    assert tool.bundle.read_bytes() == before
    told = tool.sign(DRAFT.partition("[[tombstone]]")[0].replace("revision = 3", "revision = 5"))
    assert "old is left out" in told
    tool.sign(DRAFT, "--force")
    assert [item.item_id for item in tool.items()] != [item.item_id for item in first]


def test_a_bundle_of_somebody_else_is_not_replaced(tool: Tool) -> None:
    tool.sign()
    before = tool.bundle.read_bytes()
    other = tool.folder / "other.key"
    tool("new-key", str(other))
    tool.key = other
    assert "this key has not signed" in tool.sign(code=exits.FAILED)
    tool.bundle.write_text("a letter\n")
    assert "is no bundle" in tool.sign(code=exits.FAILED)
    assert tool.bundle.read_text() == "a letter\n"
    assert before


def test_everything_that_is_wrong_is_told_and_nothing_is_written(tool: Tool) -> None:
    told = tool.sign(
        """
network = "fleet-1"
colour = "red"
[[policy]]
id = "a b"
revision = 0
destinations = ["https://x.example/path", ""]
protocols = ["https", "icmp"]
valid_for = "soon"
[[policy]]
id = "web"
revision = 1
destinations = ["x.example"]
protocols = ["https"]
not_after = 2027-01-01
""",
        code=exits.FAILED,
    )
    for text in (
        "colour is not known",
        "policy 1 (a b): id must match",
        "policy 1 (a b): revision must be",
        "destinations[0] has a path",
        "destinations[1] is empty",
        "protocols[1] must be one of",
        "valid_for must be a duration",
        "policy 2 (web): not_after must be a time with a zone",
        "Nothing was signed",
    ):
        assert text in told, text
    assert not tool.bundle.exists()


@pytest.mark.parametrize("content", ["", "not a key", "ab" * 31, "AB" * 32])
def test_a_file_that_is_no_key_is_refused(tool: Tool, content: str) -> None:
    tool.key.write_text(content)
    told = tool.sign(code=exits.FAILED)
    assert "Error" in told
    assert content == "" or content not in told


def test_a_key_that_others_may_read_is_refused(tool: Tool) -> None:
    tool.key.chmod(0o644)
    assert "Error" in tool.sign(code=exits.FAILED)


def test_json_in_and_out(tool: Tool) -> None:
    source = tool.folder / "fleet.json"
    entry = {"id": "web", "revision": 1, "destinations": ["a.example"], "protocols": ["https"]}
    source.write_text(json.dumps({"network": "n", "policy": [entry | {"valid_for": "1d"}]}))
    out, _ = tool("sign", "--key", str(tool.key), str(source), "--json")
    document = json.loads(out)
    assert document["schema"] == "ambient.policy-bundle/1"
    assert isinstance(item_of(PolicyItem(**document["items"][0])), SignedItem)


@pytest.mark.parametrize("name", ["fleet.toml", "fleet.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[", b"[[policy]]\nid = 7", b"[" * 100_000, b"{}"])
def test_no_input_makes_it_fail_otherwise(tool: Tool, name: str, content: bytes) -> None:
    source = tool.folder / name
    source.write_bytes(content)
    _, err = tool("sign", "--key", str(tool.key), str(source), code=exits.FAILED)
    assert err.startswith("Error")
    assert "Traceback" not in err
    tool("sign", "--key", str(tool.key), str(source) + ".gone", code=exits.FAILED)


def test_an_id_and_revision_stand_once_in_a_draft() -> None:
    entry: dict[str, Any] = {
        "id": "web",
        "revision": 1,
        "destinations": ["a.example"],
        "protocols": ["https"],
        "valid_for": "1d",
    }
    draft = parse_draft({"network": "n", "policy": [entry, entry]}, AT)
    assert len(draft.problems) == 1
    assert "another one" in draft.problems[0]
    assert parse_draft({"policy": "x", "tombstone": [7]}, AT).problems == (
        "policy must be a list of at most 10000 tables",
        "tombstone 1 must be a table",
    )
    assert parse_draft({}, AT).problems == ("there is neither a policy nor a tombstone in it",)
