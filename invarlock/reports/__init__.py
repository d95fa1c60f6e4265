"""Reports: raw measurements, the values derived from them, and the verification of both."""
