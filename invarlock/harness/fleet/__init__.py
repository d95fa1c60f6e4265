"""A run on several machines: one controller cuts it into pieces, and the nodes of a cluster run them.

A piece is a list of cases, which a node runs with pytest in a run directory of its own. Its part of the run returns as
an archive, and the controller joins it into the run directory. A cluster engine places the pieces and survives lost
nodes.
"""
