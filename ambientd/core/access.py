"""Who may write over the Unix socket: the decision, from the kernel's numbers alone (FAULTS 6.1, A7)."""

from collections.abc import Collection

# What the kernel reports for an id that has no mapping in our user namespace, and the customary id of
# `nobody`. Somebody is there, but nobody knows who: such a caller reads and never writes.
OVERFLOW_ID = 65534


def may_write(
    *,
    uid: int,
    gid: int,
    groups: Collection[int],
    daemon_uid: int,
    admin_gid: int | None,
) -> bool:
    """True for uid 0, for the daemon's own uid and for members of the admin group.

    `groups` are the supplementary groups. An id of 65534 never grants anything, also when it equals
    `daemon_uid` or `admin_gid`: inside a user namespace it stands for everybody without a mapping.
    """
    if uid == OVERFLOW_ID:
        return False
    if uid in (0, daemon_uid):
        return True
    if admin_gid is None or admin_gid == OVERFLOW_ID:
        return False
    return gid == admin_gid or admin_gid in groups
