"""`ambientctl policy` against a fake daemon: what is sent, what is shown, how it ends."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ambientd.wire import policy_messages as m
from ambientd.wire import routes
from tests.ctl.conftest import Ctl
from tests.fakes.daemon_http import FakeDaemon, Reply, refused

ITEM = {"body": "{}", "issuer": "ed25519:" + "0" * 64, "signature": "0" * 128}
EVIL = "\x1b[2J<b>\u202e"


def view(policy_id: str = "web", **more: Any) -> m.PolicyView:
    item = m.PolicyItemView(
        kind="policy",
        revision=3,
        item_id="00" * 32,
        issuer=ITEM["issuer"],
        issued_at="2026-11-20T12:00:00.000Z",
        not_after="2126-11-20T12:00:00.000Z",
        way="peer",
        sender=EVIL,
        received_at="2026-11-20T12:00:00.000Z",
        not_before="2026-11-20T12:00:00.000Z",
        destinations=[f"https://h{n}.example" for n in range(5)],
        protocols=["https"],
    )
    return m.PolicyView(policy_id=policy_id, state="in_force", item=item, **more)


def answer(**more: Any) -> Reply:
    facts: dict[str, Any] = {
        "state": "OnlineControlPlane",
        "may_change": True,
        "dry_run": False,
        **dict.fromkeys(("added", "replaced", "removed", "held", "kept", "refused"), 0),
        "results": [],
    }
    return Reply(200, msgspec.json.encode(m.PolicyImportAnswer(**(facts | more))))


def test_the_list_is_a_table_and_nothing_in_it_steers_the_terminal(ctl: Ctl, daemon: FakeDaemon) -> None:
    page = m.PoliciesPage(total=7, rows=[view("a"), view("b", held=view().item)], next="b")
    daemon.script[routes.POLICIES] = Reply(200, msgspec.json.encode(page))
    found = ctl("policy", "list", "--limit", "2")
    assert found.code == 0
    assert "h0.example, https://h1.example, https://h2.example and 2 more" in found.out
    assert "in force +held" in found.out
    expires = [line.split() for line in found.out.splitlines() if " in force" in line]
    assert all("in" in words[words.index("3") + 1 :] for words in expires), found.out
    assert found.err == "2 shown, 7 in force. More: --after b\n"
    document = json.loads(ctl("policy", "list", "--json").out)
    assert document["schema"] == "ambient.policies/1"
    assert (document["total"], document["next"]) == (7, "b")
    assert document["items"][0]["item"]["notAfter"].endswith("Z")
    assert daemon.seen[0].query == {"state": "in_force", "limit": "2"}
    assert len(ctl("policy", "list", "-o", "tsv").out.splitlines()) == 3


def test_one_policy_is_shown_with_what_is_held(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.POLICIES + "/web"] = Reply(200, msgspec.json.encode(view(held=view().item)))
    found = ctl("policy", "show", "web")
    assert found.code == 0
    assert "Held " in found.out
    assert "\x1b[2J" not in found.out
    assert "\u202e" not in found.out


@pytest.mark.parametrize("allowed", [True, False])
def test_a_verdict_is_the_exit_code(ctl: Ctl, daemon: FakeDaemon, allowed: bool) -> None:
    told = m.PolicyCheckAnswer(
        allowed=allowed,
        reason="allowed" if allowed else "not_listed",
        message="because",
        state="OfflineControlPlane",
        policy_allows=allowed,
        destination="https://a.example:443",
        policy_id="web" if allowed else None,
    )
    daemon.script[routes.POLICY_CHECK] = Reply(200, msgspec.json.encode(told))
    found = ctl("policy", "check", "a.example", "--protocol", "https")
    assert found.code == (0 if allowed else 6)
    assert ("✓ allowed" if allowed else "✕ refused") in found.out
    assert "because" in found.out
    assert daemon.seen[-1].query == {"destination": "a.example", "protocol": "https"}
    assert json.loads(ctl("policy", "check", "a.example", "--json").out)["policyAllows"] is allowed


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"items": [ITEM, ITEM]}),
        json.dumps([ITEM, ITEM], indent=2),
        json.dumps(ITEM) + "\n\n" + json.dumps(ITEM),
    ],
)
def test_a_bundle_may_have_three_forms(ctl: Ctl, daemon: FakeDaemon, tmp_path: Path, content: str) -> None:
    file = tmp_path / "b"
    file.write_text(content)
    daemon.script[routes.POLICY_IMPORT] = answer(added=2)
    assert ctl("policy", "import", str(file), "--dry-run").code == 0
    assert json.loads(daemon.seen[-1].body) == {"items": [ITEM, ITEM], "dry_run": True}
    assert ctl("policy", "import", "-", stdin=content.encode()).code == 0


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"added": 1}, 0),
        ({"held": 1, "may_change": False, "state": "OfflineControlPlane"}, 6),
        ({"refused": 1}, 1),
    ],
)
def test_what_became_of_it_is_the_exit_code(
    ctl: Ctl, daemon: FakeDaemon, more: dict[str, Any], code: int
) -> None:
    result = m.PolicyItemResult(place=0, outcome="refused", code="downgrade", message=EVIL, policy_id=EVIL)
    daemon.script[routes.POLICY_IMPORT] = answer(results=[result], **more)
    found = ctl("policy", "import", "-", stdin=json.dumps(ITEM).encode())
    assert found.code == code
    assert "\x1b[2J" not in found.out
    assert "line 1" in found.out or "item 1" in found.out


@pytest.mark.parametrize("content", ["junk", '{"a":1}', json.dumps(ITEM) + "\nno", "[1]", "[" * 100_000])
def test_a_file_that_is_no_bundle_is_refused_before_anything_is_sent(
    ctl: Ctl, daemon: FakeDaemon, content: str
) -> None:
    found = ctl("policy", "import", "-", stdin=content.encode())
    assert found.code == 1
    assert "no bundle of policies; nothing was changed" in found.err
    assert daemon.seen == []


def test_a_large_bundle_goes_in_parts_and_says_how_far_it_came(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.POLICY_IMPORT] = answer(added=500)
    many = "\n".join(json.dumps(ITEM) for _ in range(1100)).encode()
    found = ctl("policy", "import", "-", "--json", stdin=many)
    assert json.loads(found.out)["added"] == 1500
    assert [len(json.loads(seen.body)["items"]) for seen in daemon.seen] == [500, 500, 100]


def test_an_export_is_what_an_import_takes(ctl: Ctl, daemon: FakeDaemon, tmp_path: Path) -> None:
    page = m.PolicyExportAnswer(items=[m.PolicyItem(**ITEM)])
    daemon.script[routes.POLICY_EXPORT] = Reply(200, msgspec.json.encode(page))
    assert json.loads(ctl("policy", "export").out) == ITEM
    file = tmp_path / "bundle"
    assert ctl("policy", "export", str(file)).code == 0
    assert json.loads(file.read_text()) == ITEM
    assert ctl("policy", "export", str(file)).code == 1
    assert ctl("policy", "export", str(file), "--force", "--json").code == 0
    assert json.loads(file.read_text())["schema"] == "ambient.policy-bundle/1"


def test_a_refusal_of_the_daemon_is_told_with_its_exit_code(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.script[routes.POLICY_IMPORT] = refused("NOT_AUTHORIZED", "no")
    assert ctl("policy", "import", "-", stdin=json.dumps(ITEM).encode()).code == 4
