"""The time to render the pages of a pack, and their sizes.

    python benchmarks/pages.py evidence_pack

prints the median and maximum of milliseconds and kilobytes for the pages of reports, and those of the pack's page.
Milliseconds are CPU time, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from invarlock.packer.format.checksums import CONTROL_FILES
from invarlock.packer.format.layout import VERDICT_JSON, is_report
from invarlock.packer.verify.reports import examine_reports
from memory_files import MemoryFiles

from invarlock.digests import sha256_hex
from invarlock.reports.rendering import render_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    pack: Path = parser.parse_args().pack
    files = {
        path.relative_to(pack).as_posix(): path.read_bytes()
        for path in sorted(pack.rglob("*"))
        if path.is_file() and path.name not in CONTROL_FILES
    }
    milliseconds, kilobytes = [], []
    for path in filter(is_report, files):
        report, digest = json.loads(files[path]), sha256_hex(files[path])
        started = time.process_time()
        page = render_report(report, digest)
        milliseconds.append(1000 * (time.process_time() - started))
        kilobytes.append(len(page) / 1000)
    for name, values in (("milliseconds", milliseconds), ("kilobytes", kilobytes)):
        print(f"page of a report, {name}: median {statistics.median(values):.3g}, largest {max(values):.3g}")
    memory = MemoryFiles(files)
    found = examine_reports(memory)
    started = time.process_time()
    page = found.page(
        json.loads((pack / "manifest.json").read_bytes()), memory.digests, json.loads(files[VERDICT_JSON])
    )
    seconds = time.process_time() - started
    print(f"page of a pack of {len(milliseconds)} cases: {1000 * seconds:.3g} milliseconds, {len(page) / 1000:.4g} kB")


if __name__ == "__main__":
    main()
