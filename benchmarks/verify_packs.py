"""Time to verify packs with large files, packs with many reports, and a small pack from a cold start.

python benchmarks/verify_packs.py SMOKE_PACK [--gigabytes 2] [--reports 5000] [--without-pages]

Each is compared with a reference. ``SMOKE_PACK`` is a pack of ``pytest suites``. Its reports are repeated, as further
runs of their cases, until there are enough. Their raw measurements are real, and everything else is derived again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from invarlock.packer.build.building import PackContent, build_pack
from invarlock.packer.format import layout
from invarlock.packer.format.checksums import CONTROL_FILES, read_checksums, write_checksums
from invarlock.packer.format.limits import MAX_REPORTS
from invarlock.packer.trust.keys import make_signing_key
from invarlock.packer.trust.signature import sign_manifest
from invarlock.packer.verify.manifest_claims import manifest_problems, metadata_problems
from invarlock.packer.verify.reports import examine_reports
from invarlock.packer.verify.results import check_results
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from memory_files import MemoryFiles

from invarlock.digests import digest_bytes, sha256_hex
from invarlock.jsonio import dump_json
from invarlock.reports.derivation import baseline_run_id, compose, strip
from invarlock.reports.rendering import render_report

FILES = 20
BLOCK = 1 << 20
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smoke_pack", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--reports", type=int, default=5000)
    parser.add_argument("--without-pages", action="store_true", help="leave evaluation.html out of the many reports")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large_files(Path(folder) / "large", options.gigabytes)
    cold_starts(options.smoke_pack)
    with tempfile.TemporaryDirectory() as folder:
        content = repeated(options.smoke_pack, options.reports)
        many_reports(content if options.without_pages else with_pages(content), Path(folder))


def large_files(pack: Path, gigabytes: float) -> None:
    """Time the verification of a pack with few large files."""
    pack.mkdir()
    size = int(gigabytes * 1e9 / FILES)
    block = os.urandom(BLOCK)
    for number in range(FILES):
        with (pack / f"{number}.bin").open("wb") as stream:
            for start in range(0, size, BLOCK):
                stream.write(block[: min(BLOCK, size - start)])
            stream.write(number.to_bytes(4, "little"))
    seal(pack)
    verify = best(lambda: verified(pack))
    system = best(lambda: sha256sum(pack))
    alone = best(lambda: hash_alone(pack))
    print(f"{gigabytes:g} GB in {FILES} files: verify {verify:.2f} s")
    print(f"  sha256sum -c {system:.2f} s, {system / verify:.2f} times as long; reach: at least 3")
    print(f"  hashing alone on {os.cpu_count()} cores {alone:.2f} s, ratio {verify / alone:.2f}; reach: at most 1.25")


def cold_starts(pack: Path) -> None:
    """Time the commands on a small pack, each in a new process."""
    python = [sys.executable]
    reference = best(partial(run, [*python, "-c", "import jsonschema, numpy, nacl.signing"]))
    for name, arguments, reach in (
        ("inspect", ["inspect", str(pack)], "0.25 s"),
        ("verify", ["verify", str(pack), "--strict"], "1 s"),
    ):
        seconds = best(partial(run, [*python, "-m", "invarlock.packer", *arguments]))
        print(f"{name} of {pack.name}, cold: {seconds:.3f} s, {seconds / reference:.2f} of the imports; reach: {reach}")
    print(f"  the imports jsonschema, numpy, nacl.signing alone: {reference:.3f} s")


def many_reports(content: PackContent, folder: Path) -> None:
    """Time the verification of a pack with many reports, and the derivation of the reports alone."""
    build_pack(folder / "pack", content, make_signing_key(), "2026-01-31T12:00:00Z")
    pack = folder / "pack"
    names = read_checksums((pack / "checksums.sha256").read_bytes())
    manifest = json.loads((pack / "manifest.json").read_bytes())
    memory = MemoryFiles({name: (pack / name).read_bytes() for name in names})
    reports = sum(layout.is_report(name) for name in names)
    works = (partial(derived, memory, manifest), partial(verified, pack), partial(sha256sum, pack))
    # alternate between the measurements, so that other load on the machine affects all of them equally
    times = [[best(work, rounds=1) for work in works] for _ in range(ROUNDS)]
    derive, verify, system = (min(column) for column in zip(*times, strict=True))
    print(
        f"{reports} reports, {len(names)} files: deriving alone {derive:.1f} s, {reports / derive:.0f} reports a second"
    )
    print("  reach: at least 200")
    print(
        f"  verify {verify:.1f} s; sha256sum -c {system:.1f} s and deriving: {system + derive:.1f} s, "
        f"ratio {verify / (system + derive):.2f}; reach: at most 1"
    )


def derived(files: MemoryFiles, manifest: dict[str, Any]) -> None:
    """Derive every claim of a pack (reports, verdict, summaries, manifest, metadata) from files in memory."""
    found = examine_reports(files)
    results = check_results(files, found)
    assert not [
        *found.problems,
        *results.problems,
        *manifest_problems(manifest, found, files, results.verdict),
        *metadata_problems(found, files),
    ]


def repeated(smoke: Path, count: int) -> PackContent:
    """Return the content of a pack that repeats another pack's reports as further runs: at most ``MAX_REPORTS``."""
    names = read_checksums((smoke / "checksums.sha256").read_bytes())
    files = {name: (smoke / name).read_bytes() for name in names}
    reports = [name for name in files if layout.is_report(name)]
    again = [name for name in reports if "/errors/" not in name]
    once = len(reports) - len(again)
    runs = min(-(-(count - once) // len(again)), (MAX_REPORTS - once) // len(again))
    scenarios = json.loads(files[layout.SCENARIOS])
    kept = {name: files[name] for name in files if name.startswith("metadata/") and name != layout.PYTEST_REPORT}
    digests = {}
    for name in filter(layout.is_baseline, files):
        baseline = json.loads(files[name])
        first = baseline["draws"][0]
        baseline["draws"] = [{**first, "run": run, "seeds": seeds(run)} for run in range(1, runs + 1)]
        baseline["run_id"] = baseline_run_id(baseline)
        kept[name] = dump_json(baseline)
        digests[layout.model_folder(name)] = digest_bytes(kept[name])
    cases = []
    for name in reports:
        report = json.loads(files[name])
        siblings = (*layout.SIDECARS, *layout.PROBES)
        sidecars = {side: files[layout.sibling(name, side)] for side in siblings if layout.sibling(name, side) in files}
        for run in range(1, runs + 1) if "/errors/" not in name else (1,):
            raw: dict[str, Any] = json.loads(json.dumps(strip(report)))
            raw["meta"].update(run=run, seeds=seeds(run))
            raw["baseline_ref"]["report_sha256"] = digests[layout.model_folder(name)]
            place = name.replace("/run_1/", f"/run_{run}/")
            kept[place] = dump_json(compose(raw))
            runtime = json.loads(sidecars[layout.RUNTIME_MANIFEST])
            runtime["report"].update(path=place, sha256=sha256_hex(kept[place]))
            kept |= {layout.sibling(place, side): data for side, data in sidecars.items()}
            kept[layout.sibling(place, layout.RUNTIME_MANIFEST)] = dump_json(runtime)
            cases.append({"model": raw["meta"]["model_id"], "scenario": raw["meta"]["scenario"], "run": run})
    cases.sort(key=lambda case: (case["model"], case["scenario"], case["run"]))
    scenarios["selection"]["cases"] = cases
    kept[layout.SCENARIOS] = dump_json(scenarios)
    return PackContent(kept, "benchmark", {})


def with_pages(content: PackContent) -> PackContent:
    """Return a pack's content with the page of each report."""
    pages = {
        layout.sibling(name, layout.PAGE): render_report(json.loads(data), sha256_hex(data))
        for name, data in content.files.items()
        if layout.is_report(name)
    }
    return replace(content, files={**content.files, **pages})


def seeds(run: int) -> dict[str, int]:
    return {"bootstrap": run, "windows": run}


def seal(pack: Path) -> None:
    digests = {
        path.name: hashlib.file_digest(path.open("rb"), "sha256").hexdigest()
        for path in pack.iterdir()
        if path.name not in CONTROL_FILES
    }
    checksums = write_checksums(digests)
    manifest = dump_json(
        {
            "format": "evidence-pack-v1",
            "checksums_sha256": "checksums.sha256",
            "checksums_sha256_digest": sha256_hex(checksums),
        }
    )
    (pack / "checksums.sha256").write_bytes(checksums)
    (pack / "manifest.json").write_bytes(manifest)
    (pack / "manifest.signature.json").write_bytes(dump_json(sign_manifest(manifest, make_signing_key())))


def verified(pack: Path) -> None:
    result = verify_pack(pack, VerifyOptions(strict=True))
    assert result.ok, result.problems


def sha256sum(pack: Path) -> None:
    run(["sha256sum", "--quiet", "-c", "checksums.sha256"], pack)


def hash_alone(pack: Path) -> None:
    def digest(path: Path) -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(digest, [path for path in pack.rglob("*") if path.is_file()]))


def run(command: list[str], folder: Path | None = None) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the shortest time of several runs of a function, in seconds."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
