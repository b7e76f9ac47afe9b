"""`python -m locbench`: the same as the `locbench` command."""

import sys

from locbench.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
