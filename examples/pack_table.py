"""Prints the cases of evidence packs as CSV, a line a case, for pandas or a spreadsheet.

Example::

    python examples/pack_table.py PACK OTHER_PACK > cases.csv
    >>> pandas.read_csv("cases.csv").groupby("scenario").ratio.describe()

Packs are not verified here: run ``invarlock verify PACK`` first.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invarlock.jsonio import read_json

COLUMNS = ("pack", "model", "scenario", "run", "edit", "ratio", "ratio_low", "ratio_high", "kl_mean", "failed_gates")


def rows(pack: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each report of a pack; a value that could not be measured is None."""
    for path in sorted(pack.glob("reports/**/evaluation.report.json")):
        report = read_json(path)
        if "validation" not in report:
            continue  # a baseline's report
        metric = report["primary_metric"]
        low, high = metric["ci"] or (None, None)
        yield {
            "pack": pack.name,
            "model": report["meta"]["model_id"],
            "scenario": report["meta"]["scenario"],
            "run": report["meta"]["run"],
            "edit": report["edit"]["label"],
            "ratio": metric["ratio_vs_baseline"],
            "ratio_low": low,
            "ratio_high": high,
            "kl_mean": report["fidelity"].get("kl_mean"),
            "failed_gates": " ".join(sorted(gate for gate, passed in report["validation"].items() if not passed)),
        }


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/pack_table.py PACK ...")
    table = csv.DictWriter(sys.stdout, COLUMNS)
    table.writeheader()
    for pack in sys.argv[1:]:
        table.writerows(rows(Path(pack)))


if __name__ == "__main__":
    main()
