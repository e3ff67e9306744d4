"""``python -m calib`` is ``calib``."""

import sys

from calib.cli import main

if __name__ == "__main__":
    sys.exit(main())
