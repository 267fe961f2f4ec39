import pytest

from ambientd.core.access import OVERFLOW_ID, may_write

ADMIN, READERS, DAEMON = 980, 981, 970


@pytest.mark.parametrize(
    ("who", "uid", "gid", "groups", "writes"),
    [
        ("root", 0, 0, (), True),
        ("root with many groups", 0, 0, (1, 2, 3), True),
        ("the daemon's own user", DAEMON, DAEMON, (), True),
        ("an admin by supplementary group", 1000, 1000, (READERS, ADMIN), True),
        ("an admin by primary group", 1001, ADMIN, (), True),
        ("a reader", 1002, 1002, (READERS,), False),
        ("a stranger", 1003, 1003, (), False),
        ("nobody", OVERFLOW_ID, OVERFLOW_ID, (), False),
        ("an unmapped user who seems to be an admin", OVERFLOW_ID, ADMIN, (ADMIN,), False),
    ],
)
def test_the_table_of_peers_is_exact(
    who: str, uid: int, gid: int, groups: tuple[int, ...], writes: bool
) -> None:
    assert may_write(uid=uid, gid=gid, groups=groups, daemon_uid=DAEMON, admin_gid=ADMIN) is writes, who


def test_without_an_admin_group_only_root_and_the_daemon_write() -> None:
    assert not may_write(uid=1000, gid=0, groups=(0,), daemon_uid=DAEMON, admin_gid=None)
    assert may_write(uid=DAEMON, gid=5, groups=(), daemon_uid=DAEMON, admin_gid=None)


def test_the_overflow_id_never_grants_even_when_daemon_and_group_have_it() -> None:
    assert not may_write(uid=OVERFLOW_ID, gid=0, groups=(), daemon_uid=OVERFLOW_ID, admin_gid=ADMIN)
    assert not may_write(
        uid=1000, gid=OVERFLOW_ID, groups=(OVERFLOW_ID,), daemon_uid=DAEMON, admin_gid=OVERFLOW_ID
    )
