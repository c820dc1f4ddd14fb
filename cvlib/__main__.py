"""Entry point of ``python -m cvlib``."""

import sys

from cvlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
