"""Verifying a pack in seven steps: ``verifying`` takes them in order, each other module is a step or a part of one.

What a pack claims is derived here from its raw measurements, by the functions that ``build`` writes it with.
"""
