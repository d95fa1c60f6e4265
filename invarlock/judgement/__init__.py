"""What guards and metrics consist of: gates, detectors, shares of limits, limits learned from null runs."""
