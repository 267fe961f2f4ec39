"""`python -m ambientd`."""

import sys

from ambientd.main import main

if __name__ == "__main__":
    sys.exit(main())
