"""The problems that checks can report: the value of one problem, and the enumeration of all codes.

One table has the exit code, meaning and remedy of each code; ``python -m invarlock.problems`` prints it.
"""

from invarlock.problems.codes import Code, ExitCode
from invarlock.problems.problem import Problem, first_class

__all__ = ["Code", "ExitCode", "Problem", "first_class"]
