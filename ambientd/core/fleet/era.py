"""Eras of a control plane's database: it begins a new one each time an older copy is put in its place.

The era stands in the upper bits of every revision that is given in it. What nodes were given behind the copy
has lower revisions than whatever is added afterwards, so a node that asks for what is new misses nothing.
"""

_BITS = 40  # a million items a second for twelve days; JSON's numbers leave room for 8191 eras


def first_of_next(revision: int) -> int:
    """Where the next era begins, after this revision."""
    return ((revision >> _BITS) + 1) << _BITS
