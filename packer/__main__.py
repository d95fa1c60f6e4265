"""``python -m invarlock.packer``: the command line of packs."""

import sys

from invarlock.starting import start

sys.exit(start("invarlock.packer.cli"))
