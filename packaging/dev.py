"""The two commands of a checkout, on a bare machine: `dev.py up` and `dev.py test`.

Needs Python 3.11 with pip, and git for the checkout; nothing else. The work is in `devkit`; this file
stays readable to old interpreters, so that they can say what is wrong instead of a syntax error.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - exactly the interpreters this line is for
    found = ".".join(str(part) for part in sys.version_info[:3])
    sys.stderr.write(
        "Python " + found + " (" + sys.executable + ") is too old: Ambient needs Python 3.11 or newer.\n"
        "Run this with a newer one, for example: python3.11 packaging/dev.py up\n"
    )
    sys.exit(1)

from devkit.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
