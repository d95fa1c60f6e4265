"""``python -m invarlock.problems`` prints the page of problems."""

from invarlock.problems.page import problems_page

print(problems_page(), end="")
