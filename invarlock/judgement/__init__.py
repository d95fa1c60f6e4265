"""The parts of guards and metrics: gates, detectors, shares of limits, limits learned from null runs."""
