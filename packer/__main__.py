"""``python -m invarlock.packer``: the command line of packs."""

import sys

from invarlock.packer.cli import main

sys.exit(main())
