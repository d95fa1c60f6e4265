"""A run on several machines: one controller divides it into pieces, and the nodes of a cluster run them.

A piece is a list of cases that a node runs with pytest in a separate run directory. The node returns its part of the
run as an archive, and the controller joins it into the run directory. A cluster engine places the pieces and handles
lost nodes.
"""
