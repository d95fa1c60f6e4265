"""Verifying a pack in seven steps: ``verifying`` runs them in order; every other module is a step or part of one.

The claims of a pack are derived from its raw measurements by the same functions that ``build`` uses.
"""
