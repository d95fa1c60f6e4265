"""``python -m invarlock.problems`` prints the page of problems."""

import sys

from invarlock.problems.page import problems_page

sys.stdout.write(problems_page())
