"""Limits on the resources that verifying a pack may use. A pack that exceeds a limit is refused, not read in part.

Together they keep ``verify`` below 256 MB of memory for any pack: one document is parsed at a time, and only
a record of a few kilobytes is kept per report.
"""

from __future__ import annotations

# A manifest of ten thousand reports has 1 MB, since it names the path of each.
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
MAX_MANIFEST_VALUES = 200_000
# A signature file has about 500 bytes, an attestation about 500 bytes per report.
MAX_SIGNATURE_BYTES = 64 * 1024
MAX_ATTESTATION_BYTES = 8 * 1024 * 1024
# A token with three certificates has about 6 KB.
MAX_TIMESTAMP_BYTES = 64 * 1024
# Ten thousand reports with seven accompanying files each.
MAX_FILES = 100_000
# One folder per report for ten thousand reports; empty folders are not in the checksums but cost time to list.
MAX_FOLDERS = 30_000
# A line has a digest and a path of about 90 bytes.
MAX_CHECKSUMS_BYTES = 16 * 1024 * 1024
# A verdict with ten thousand records has 11 MB; the report of a model with a thousand matrices has about 4 MB.
MAX_JSON_BYTES = 16 * 1024 * 1024
# The report of a model with a thousand matrices has 150,000 values; a hostile document may need up to 120 bytes of
# memory for each value. A verdict with ten thousand records has 460,000 values.
MAX_JSON_VALUES = 500_000
# The largest suite has about 700 cases.
MAX_REPORTS = 10_000
# A hundred null runs improve a preset little over twenty.
MAX_NULL_RUNS = 101
# The generated README has 2 KB; the maker's notes are added to it.
MAX_TEXT_BYTES = 1024 * 1024
# Enough for the packed weights of a large deployable model; a pack without weights has a few gigabytes at most.
MAX_PACK_BYTES = 128 * 1024**3
# Linux limits a file name to 255 bytes; our deepest path has 5 segments and about 120 bytes.
MAX_PATH_BYTES = 512
MAX_PATH_SEGMENTS = 16
# More problems than this would not help a reader.
MAX_PROBLEMS = 100
# Files that no claim needs are hashed in pieces of this many bytes.
PIECE_BYTES = 1024 * 1024
# With more threads than this, the additional ones only wait for the disk.
MAX_HASHING_THREADS = 8
# Handing a smaller file to a thread costs more than hashing it.
THREADED_BYTES = 256 * 1024
