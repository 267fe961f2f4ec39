"""The row of `status` about the peers."""

from ambientd.core.text import printable
from ambientd.wire.autonomy_messages import PeersStatus


def peers_line(status: PeersStatus) -> tuple[str, str]:
    """Mark and text of the row `peers`."""
    refused = f", {status.refused} messages refused" if status.refused else ""
    if status.reason is not None and status.linked == 0:
        return "look", printable(status.reason) + refused
    where = f", listening on {printable(status.address)}" if status.address else ""
    text = f"{status.linked} of {status.trusted} linked{where}{refused}"
    return ("good" if status.linked or not status.trusted else "off"), text
