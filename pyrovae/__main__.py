"""`python -m pyrovae` is the command `pyrovae`."""

import sys

from pyrovae.cli import main

if __name__ == "__main__":
    sys.exit(main())
