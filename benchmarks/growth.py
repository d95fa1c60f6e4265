"""How the cost per unit grows with the number of units: windows and tensors of a report, reports of a pack.

    python benchmarks/growth.py PACK                  # derivation: windows 64 to 4,096, tensors 300 to 30,000
    python benchmarks/growth.py PACK --reports 10000  # and verify and build: packs of a tenth and of so many reports

The cases of a run are measured by ``collection.py --cases 1000``.

``PACK`` is a pack of ``pytest suites``. Its reports are made larger by repeating their raw measurements, from which all
other fields are derived again. A growth of 1 is linear; the target is at most 1.1. Each time is the shortest CPU time
of several rounds, which alternate between the sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import verify_packs
from invarlock.packer.build.building import build_pack
from invarlock.packer.format import layout
from invarlock.packer.trust.keys import make_signing_key

from invarlock.reports.derivation import compose, strip

ROUNDS = 5
WINDOWS = (64, 256, 1024, 4096)
TENSORS = (300, 3000, 30000)
LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")
REACH = "reach: at most 1.1"
BEGIN = (
    "import resource, sys, time\nfrom pathlib import Path\nstarted = time.perf_counter()\npack = Path(sys.argv[1])\n"
)
VERIFY = (
    "from invarlock.packer.verify.verifying import VerifyOptions, verify_pack\n"
    "result = verify_pack(pack, VerifyOptions(strict=True))\n"
    "assert not result.problems, result.problems[:3]\n"
)
BUILD = (
    "from invarlock.packer.build.assembly import gather_files\n"
    "from invarlock.packer.build.building import build_pack\n"
    "from invarlock.packer.trust.keys import make_signing_key\n"
    "content = gather_files(reports=sorted(pack.glob('reports/**/evaluation.report.json')), final_verdict=None,\n"
    "    baselines=sorted(pack.glob('baselines/*/*.json')), scenarios=pack / 'metadata/scenarios.json',\n"
    "    presets=pack / 'metadata/presets')\n"
    "build_pack(pack.with_name('again'), content, make_signing_key(), '2026-01-31T12:00:00Z')\n"
)
END = (
    "own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))\n"
    "seconds = own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime\n"
    # not ru_maxrss, which is inherited from the process that forked this one
    "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
    "print(seconds, time.perf_counter() - started, peak, others.ru_maxrss)\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--reports", type=int, default=0)
    options = parser.parse_args()
    raw = largest_report(options.pack)
    growth("windows of a report, derivation", WINDOWS, partial(with_windows, raw))
    growth("tensors of a report, derivation", TENSORS, partial(with_tensors, raw))
    if options.reports:
        many_reports(options.pack, (options.reports // 10, options.reports))


def growth(name: str, sizes: Sequence[int], made: Callable[[int], dict[str, Any]]) -> None:
    """Print the time per unit of deriving reports of several sizes."""
    reports = [made(size) for size in sizes]
    # Each round has its own seed, because the resamples of a seed are cached for reports below a number of windows.
    rounds = [[seconds(partial(compose, seeded(report, seed))) for report in reports] for seed in range(ROUNDS)]
    each = [min(column) / size for column, size in zip(zip(*rounds, strict=True), sizes, strict=True)]
    shown = ", ".join(f"{size}: {value * 1e6:.3g} µs" for size, value in zip(sizes, each, strict=True))
    print(f"{name}: {shown} each; growth {each[-1] / each[0]:.2f}, of the last step {each[-1] / each[-2]:.2f}; {REACH}")


def seeded(report: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a copy of a raw report that draws its resamples from the given seed."""
    return {**report, "meta": {**report["meta"], "seeds": {**report["meta"]["seeds"], "bootstrap": 1000 + seed}}}


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def largest_report(pack: Path) -> dict[str, Any]:
    """Return the raw part of the report with the most changed tensors."""
    reports = [json.loads(path.read_bytes()) for path in (pack / "reports").rglob("evaluation.report.json")]
    largest = max(reports, key=lambda report: len(report["spectral"]["raw"]["changes"]))
    raw: dict[str, Any] = json.loads(json.dumps(strip(largest)))
    return raw


def with_windows(raw: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return a raw report with this many final windows, and preview windows in proportion."""
    grown: dict[str, Any] = json.loads(json.dumps(raw))
    for part, columns in grown["evaluation_windows"].items():
        before = len(columns["window_ids"])
        times = -(-count // len(raw["evaluation_windows"]["final"]["window_ids"]))
        for block in (columns, *((grown["fidelity"], grown["variance"]) if part == "final" else ())):
            _repeat(block, before, times)
        columns["window_ids"] = [f"{number:016x}" for number in range(before * times)]
    counts = {part: len(columns["window_ids"]) for part, columns in grown["evaluation_windows"].items()}
    grown["dataset"]["windows"] = {**grown["dataset"]["windows"], **counts}
    return grown


def _repeat(block: Any, length: int, times: int) -> None:
    """Repeat, in place, each list of a given length inside a block."""
    for key, value in block.items():
        if isinstance(value, dict):
            _repeat(value, length, times)
        elif isinstance(value, list) and len(value) == length:
            block[key] = value * times


def with_tensors(raw: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Return a raw report with about this many tensors, made by repeating its layers."""
    grown: dict[str, Any] = json.loads(json.dumps(raw))
    tensors = grown["invariants"]["raw"]["baseline"]["tensors"]
    layers = 1 + max(int(found[0]) for name in tensors if (found := LAYER.search(name)))
    own = sum(LAYER.search(name) is not None for name in tensors)
    times = max(1, round((count - len(tensors)) / own) + 1)
    for guard in ("invariants", "spectral", "rmt", "variance"):
        sides = grown[guard]["raw"]
        for side in sides.values():
            for key in ("tensors", "modules"):
                if isinstance(side, dict) and key in side:
                    side[key] = _more_layers(side[key], layers, times)
        if "changes" in sides:
            sides["changes"] = _more_layers(sides["changes"], layers, times)
    return grown


def _more_layers(rows: Mapping[str, Any], layers: int, times: int) -> dict[str, Any]:
    def name_in(repeat: int, name: str) -> str:
        return LAYER.sub(lambda found: str(int(found[0]) + layers * repeat), name)

    return dict(sorted((name_in(repeat, name), row) for repeat in range(times) for name, row in rows.items()))


def many_reports(pack: Path, counts: Sequence[int]) -> None:
    """Print the time and memory of verifying packs of several sizes, and of building them from files on disk."""
    each = []
    works = {"verify": VERIFY, "build": BUILD}
    for count in counts:
        content = verify_packs.repeated(pack, count)
        number = sum(layout.is_report(name) for name in content.files)
        with tempfile.TemporaryDirectory() as folder:
            build_pack(Path(folder) / "pack", content, make_signing_key(), "2026-01-31T12:00:00Z")
            del content
            for (name, work), cores in product(works.items(), sorted({1, len(os.sched_getaffinity(0))})):
                processor, clock, own, others = measured(work, Path(folder) / "pack", cores)
                shutil.rmtree(Path(folder) / "again", ignore_errors=True)
                each.append((name, cores, processor / number))
                print(
                    f"{name} of {number} reports on {cores} cores: processor {processor:.1f} s, clock {clock:.1f} s, "
                    f"peak {own / 1e6:.0f} MB, of a process that it starts {others / 1e6:.0f} MB; reach: 256 MB"
                )
    for name, cores in sorted({(name, cores) for name, cores, _ in each}):
        first, *_, last = [cost for *of, cost in each if of == [name, cores]]
        shown = f"{first * 1e3:.2f} and {last * 1e3:.2f} ms each, growth {last / first:.2f}"
        print(f"  {name} on {cores} cores: {shown}; {REACH}")


def measured(work: str, pack: Path, cores: int) -> tuple[float, float, float, float]:
    """Return the CPU and wall-clock seconds of work on a pack, and the peak bytes of its process and its children."""
    allowed = set(list(os.sched_getaffinity(0))[:cores])
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + work + END, pack],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    processor, clock, own, others = map(float, done.stdout.split())
    return processor, clock, own * 1024, others * 1024


if __name__ == "__main__":
    print(f"peak of this process without work: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    main()
