"""What a signed question to the control plane came to."""

from ambientd.core.controlreply import NOT_KNOWN, words_of
from ambientd.core.doctor import Finding, control_remedy, fail, good, warn
from ambientd.core.outbox import Meaning, Reply, meaning_of
from ambientd.wire.doctor_messages import CheckResult
from ambientd.wire.fleet_api_messages import NodeInfo
from ambientd.wire.fleet_enums import NodeStatus
from ambientd.wire.messages import Problem, StatusDocument

# What the daemon itself has seen go wrong with what it tells, by the beginnings of the problems' ids.
_TOLD = ("control.", "outbox.")


def judge_told(
    status: StatusDocument, node: NodeInfo | None, refused: tuple[str, str], took_ms: int
) -> Finding:
    """By the daemon's own question; `refused` are code and words of a refusal, else empty."""
    url = "" if status.control is None else status.control.url or ""
    code, words = refused
    if code == "NOT_AUTHENTICATED":
        return fail(f"{url} refuses this node: {NOT_KNOWN}", join_again(url))
    if code:
        return fail(f"{url}: {words.removeprefix(f'{url}: ')}", control_remedy(url))
    known = judge_known(url, node, took_ms)
    if known.result is not CheckResult.OK:
        return known
    problems = [one for one in status.problems if one.id.startswith(_TOLD)]
    return _with(known, problems)


def _with(known: Finding, problems: list[Problem]) -> Finding:
    if not problems:
        return known
    return warn(f"{known.text}; {problems[0].text}", remedy_of(problems[0].id))


def judge_known(url: str, node: NodeInfo | None, took_ms: int) -> Finding:
    """It has answered a signed question; `node` is what it says of this node, None when it is not that."""
    if node is None:
        return fail(f"{url} answers in words of another version", "is the same version there?")
    text = f"{url} answers in {took_ms}ms and knows this node as {node.node_id} ({node.status.value})"
    if node.status is NodeStatus.REJECTED:
        return warn(
            f"{text}: its owner has rejected it, and it gets no work", "ask the owner of the node there"
        )
    return good(text)


def judge_reply(url: str, reply: Reply) -> Finding:
    """It has answered with a refusal."""
    if meaning_of(reply) is Meaning.GONE:
        return fail(f"{url} refuses this node: {NOT_KNOWN}", join_again(url))
    return fail(f"{url} {words_of(reply)}", control_remedy(url))


def join_again(url: str) -> str:
    """What an operator does whose node is not known there any more."""
    return f"with a fresh join token: ambientctl join {url or 'URL'}"


def remedy_of(problem: str) -> str:
    """What helps against a problem of what is told."""
    if problem == "outbox.dropped":
        return "more room for reports: control_plane.outbox (the audit and sessions need none)"
    if problem == "control.audit":
        return (
            "if another machine runs with this node's key or state, join as another: leave, then join --name"
        )
    return "ambientctl sync --control-plane -o wide"
