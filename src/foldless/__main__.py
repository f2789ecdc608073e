"""`python -m foldless` is the command `foldless`."""

from foldless.cli import main

if __name__ == "__main__":
    main()
