"""The collector of cycles, kept from looking at what never goes."""

import gc

# New objects until the young are looked through; of Python's own 700 requests under way hold more.
BUSY_YOUNG = 10_000


def settle_memory(*, busy: bool = False) -> None:
    """To be called once a process has loaded what it needs.

    Collects, and puts everything that is there out of the collector's sight. A full collection in the midst
    of a large list of sessions held the loop for 15 to 25 ms, most of it for modules and their functions.
    `busy`: hundreds of requests are under way at a time. All that is young lives then, and looking through it
    time and again took a twelfth of the loop.
    """
    gc.collect()
    gc.freeze()
    if busy:
        gc.set_threshold(BUSY_YOUNG, *gc.get_threshold()[1:])
