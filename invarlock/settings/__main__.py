"""``python -m invarlock.settings`` prints the page of settings."""

import sys

from invarlock.boundary import run_command
from invarlock.output import say
from invarlock.settings.page import settings_page


def _print_page() -> int:
    say(*settings_page().removesuffix("\n").split("\n"))
    return 0


sys.exit(run_command(_print_page))
