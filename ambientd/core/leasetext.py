"""What status says of session leases."""

from ambientd.core.text import number, size
from ambientd.wire.autonomy_messages import LeasesStatus


def lease_line(leases: LeasesStatus) -> tuple[str, str]:
    """Mark and text of the row."""
    text = f"{number(leases.active)} active, {size(leases.bytes)} metered"
    if leases.clock_doubt:
        return "look", f"{text}, clock in doubt"
    return ("run" if leases.active else "off"), text
