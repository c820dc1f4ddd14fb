"""``python -m cvlib`` is ``cvlib``."""

import sys

from cvlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
