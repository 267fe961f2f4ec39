"""The collector of cycles, kept from looking at what never goes."""

import gc


def settle_memory() -> None:
    """To be called once a process has loaded what it needs.

    Collects, and puts everything that is there out of the collector's sight. A full collection in the midst
    of a large list of sessions held the loop for 15 to 25 ms, most of it for modules and their functions.
    """
    gc.collect()
    gc.freeze()
