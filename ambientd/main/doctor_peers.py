"""The checks of `doctor` that ask the daemon about its peers."""

from datetime import datetime

import msgspec

from ambientd.config.schema import Config
from ambientd.core.doctor import Finding, skip
from ambientd.core.doctorpeers import judge_offsets, judge_peers
from ambientd.net.ask import AskError, ask
from ambientd.wire import routes
from ambientd.wire.peer_messages import PeersView

ASK_SEC = 1.5
NO_PEERS = "no peers: peers.listen is not set"


def check_peers(socket: str | None, config: Config | None, now: datetime) -> Finding:
    """The row `peers`; `socket` is None where no daemon answers."""
    if config is not None and not (config.peers.listen or config.peers.static or config.peers.discovery):
        return skip(NO_PEERS)
    view = _view(socket)
    return skip("only the daemon knows its peers") if view is None else judge_peers(view, now)


def compare_clocks(socket: str | None, found: Finding) -> Finding:
    """The row `clock`, with the peers' clocks where there are any."""
    view = _view(socket)
    return found if view is None or not view.enabled else judge_offsets(view, found)


def _view(socket: str | None) -> PeersView | None:
    if socket is None:
        return None
    try:
        told = ask(socket, routes.PEERS, seconds=ASK_SEC)
        return msgspec.json.decode(told.body, type=PeersView) if told.status == 200 else None
    except (AskError, OSError, msgspec.DecodeError):
        return None
