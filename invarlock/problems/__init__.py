"""Everything that a check can find wrong: one value for a problem, and the enumeration of its codes.

Each code has its exit code, its meaning and its remedy in one table; ``python -m invarlock.problems`` prints it.
"""

from invarlock.problems.codes import Code, ExitCode
from invarlock.problems.problem import Problem, first_class

__all__ = ["Code", "ExitCode", "Problem", "first_class"]
