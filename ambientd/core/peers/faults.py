"""What ends a link: a fault of the peer, raised where it is seen and turned into `Closed` in one place."""

from ambientd.core.peers.frames import CloseReason


class LinkFaultError(Exception):
    """The peer did what ends a link. `text` is for the operator and holds nothing that the peer wrote."""

    def __init__(self, reason: CloseReason, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


class BrokenRuleError(LinkFaultError):
    """The peer sent what it may not send here; the text names it, to go on after "the peer sent"."""

    def __init__(self, what: str) -> None:
        super().__init__(CloseReason.PROTOCOL, f"the peer sent {what}")
