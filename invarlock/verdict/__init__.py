"""The verdict of a run: PASS or FAIL, compiled from the manifest, the reports and their detectors."""
