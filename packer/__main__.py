import sys

from invarlock.packer.cli import main

sys.exit(main())
