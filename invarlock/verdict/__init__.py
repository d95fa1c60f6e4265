"""The verdict of a run: detectors over reports, compiled with the manifest into PASS or FAIL."""
