"""The feed's helper process, run as `python -I -S -B <this file>` by `host/feed_process.py`.

It exists because a hung file system may hold a process for ever: this one holds no descriptor of the
daemon's and no lock but the feed's, and can be left behind. It ends when its standard input closes.

Only a start: what it does is in `feed_serve.py`, found from this file's place, because the site's packages
are not on its path. A program's own file is compiled anew at each start, which costs memory; a module's
is not.
"""

import os
import sys
import time

HIDDEN = "--hidden"  # as the daemon is: this process shares its view of the file system


def main() -> int:
    """Serves until standard input closes; returns the exit code."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path.append(root)
    if HIDDEN in sys.argv[1:]:
        __import__("ambientd.host.hide", fromlist=["hide"]).hide()
    served = __import__("ambientd.host.feed_serve", fromlist=["serve"])
    sys.path.remove(root)
    code: int = served.serve(monotonic=time.monotonic, wall=time.time, sleep=time.sleep)
    return code


if __name__ == "__main__":
    sys.exit(main())
