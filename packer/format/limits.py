"""How much a pack may ask of its receiver. A pack beyond a limit is refused, not read in part.

Together they keep ``verify`` below 256 MB of memory whatever a pack holds: one document is parsed at a time, and what
is kept of each report is a record of a few kilobytes.
"""

from __future__ import annotations

# The manifest of ten thousand reports names the path of each: 1 MB.
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
MAX_MANIFEST_VALUES = 200_000
# A signature file has some 500 bytes, an attestation some 500 a report.
MAX_SIGNATURE_BYTES = 64 * 1024
MAX_ATTESTATION_BYTES = 8 * 1024 * 1024
# Ten thousand reports with seven files beside each.
MAX_FILES = 100_000
# Ten thousand reports have one each; checksums do not count empty ones, which take as long to look through.
MAX_FOLDERS = 30_000
# A line has a digest and a path of some 90 bytes.
MAX_CHECKSUMS_BYTES = 16 * 1024 * 1024
# A verdict with ten thousand records has 11 MB; the report of a model of a thousand matrices some 4 MB.
MAX_JSON_BYTES = 16 * 1024 * 1024
# That report has 150,000 values; an adversary's cost up to 120 bytes of memory each.
MAX_JSON_VALUES = 400_000
# The largest suite has some 700 cases.
MAX_REPORTS = 10_000
# A preset learns little more from a hundred null runs than from twenty.
MAX_NULL_RUNS = 101
# A README of ours has 2 KB, and a maker's own words some more.
MAX_TEXT_BYTES = 1024 * 1024
# Packed weights of a large model in the pack of a deployable; without weights a pack has some gigabytes at most.
MAX_PACK_BYTES = 128 * 1024**3
# Linux limits a name to 255 bytes; our deepest path has 5 segments and some 120 bytes.
MAX_PATH_BYTES = 512
MAX_PATH_SEGMENTS = 16
# What is wrong a hundred times is as wrong as what is wrong ten thousand times.
MAX_PROBLEMS = 100
# Files that no claim needs are hashed in pieces of this many bytes.
PIECE_BYTES = 1024 * 1024
# More threads than these wait for the disk.
MAX_HASHING_THREADS = 8
# Handing a smaller file to a thread costs more than hashing it.
THREADED_BYTES = 256 * 1024
