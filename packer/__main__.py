"""``python -m invarlock.packer``: the command line of packs."""

import sys

try:
    from invarlock.packer.cli import main
except KeyboardInterrupt:
    sys.stderr.write("interrupted\n")
    sys.exit(130)

sys.exit(main())
