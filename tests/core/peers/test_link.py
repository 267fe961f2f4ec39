"""Two nodes over one link."""

from ambientd.core.peerlink import State
from tests.core.peers.kit import Node, Wire, item


def test_two_nodes_come_to_hold_the_union_and_agree() -> None:
    one, other = Node("one", trusts=["other"]), Node("other", trusts=["one"])
    one.put(*(item(number) for number in range(300)))
    other.put(*(item(number) for number in range(280, 320)))
    wire = Wire(one, other).open()
    assert wire.left.link.state is wire.right.link.state is State.OPEN
    assert one.have.root == other.have.root
    assert len(one.items) == len(other.items) == 320
    assert wire.left.link.agrees
    assert wire.right.link.agrees
