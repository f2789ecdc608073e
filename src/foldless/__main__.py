"""`python -m foldless` is the command `foldless`."""

import sys

from foldless.cli import main

if __name__ == "__main__":
    sys.exit(main())
