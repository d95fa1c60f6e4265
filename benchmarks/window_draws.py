"""Are the smoke suite's verdicts the same with other draws of windows?

    python benchmarks/window_draws.py --draws 10 [--select clean]

Runs the suite once for each draw, with a different window seed. For every scenario and model it prints the range of the
ratio, the largest share of a gate's limit that is used (1 is at the limit), and how many draws gave the expected
verdict. Exits with 1 if any draw did not.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from invarlock.reports.margins import limits_used, tightest

ROOT = Path(__file__).parents[1]
SEED_STRIDE = 1000


def records(seed: int, folder: Path, select: str) -> list[dict[str, Any]]:
    """Run the smoke suite once and return the verdict's records, each with its share of the nearest limit."""
    command = [sys.executable, "-m", "pytest", "suites", "-n", "2", "-q", "--no-pack", "-p", "no:cacheprovider"]
    command += ["--window-seed", str(seed), "--output-dir", str(folder), "-m", select]
    subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    verdict = json.loads((folder / "reports" / "final_verdict.json").read_text("utf-8"))
    used = {}
    for path in folder.glob("*/reports/**/evaluation.report.json"):
        report = json.loads(path.read_bytes())
        used[report["meta"]["scenario"], report["meta"]["model_id"]] = tightest(limits_used(report))
    return [{**row, "used": used[row["name"], row["model"]]} for row in verdict["records"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--select", default="smoke", help="which cases, as pytest's -m takes it")
    options = parser.parse_args()
    draws = options.draws
    seen: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for draw in range(1, draws + 1):
            for record in records(draw * SEED_STRIDE, Path(folder) / str(draw), options.select):
                seen[record["name"], record["model"].rsplit("/", 1)[-1]].append(record)
    failed = 0
    print("| scenario | model | ratio, lowest to highest | most of a limit | as expected |")
    print("| --- | --- | --- | --- | --- |")
    for (name, model), rows in sorted(seen.items()):
        ratios = [row["ratio_vs_baseline"] for row in rows if row["ratio_vs_baseline"] is not None]
        span = f"{min(ratios):.4g} to {max(ratios):.4g}" if ratios else "none"
        passed = sum(row["passed"] for row in rows)
        failed += passed < draws
        limit, share = max((row["used"] for row in rows), key=lambda used: math.inf if used[1] is None else used[1])
        most = "not measured" if share is None else f"{share:.2f} of `{limit}`"
        print(f"| `{name}` | {model} | {span} | {most} | {passed} of {draws} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
