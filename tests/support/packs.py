"""What the maker of a pack can do: change a file and reseal everything, as if the pack had been built that way."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from invarlock.packer.build.assembly import gather_files
from invarlock.packer.build.building import PackContent
from invarlock.packer.format.checksums import CONTROL_FILES, write_checksums
from invarlock.packer.trust.keys import SigningKey
from invarlock.packer.trust.signature import sign_manifest
from invarlock.packer.verify.reports import examine_reports
from invarlock.packer.verify.verifying import VerifyOptions, VerifyResult, verify_pack
from memory_files import MemoryFiles

from invarlock.jsonio import dump_json
from invarlock.problems import Code
from invarlock.reports.derivation import compose, strip
from invarlock.reports.rendering import render_report

MODEL = "embedded__mistral-tiny"
REPORT = f"reports/{MODEL}/noop_control/run_1/evaluation.report.json"
STRESS = f"reports/{MODEL}/prune_50pct_stress/run_1/evaluation.report.json"
FAULT = f"reports/{MODEL}/errors/nan_injection/evaluation.report.json"
BASELINE = f"baselines/{MODEL}/evaluation.report.json"
VERDICT = "results/final_verdict.json"
SCENARIOS = "metadata/scenarios.json"

TIME = "2026-01-31T12:00:00Z"

Path_ = tuple[str | int, ...]


def strict(pack: Path, **options: Any) -> VerifyResult:
    """Verify a pack strictly."""
    return verify_pack(pack, VerifyOptions(strict=True, **options))


def codes(result: VerifyResult) -> set[Code]:
    """Return the codes of the problems that a verification found."""
    return {problem.code for problem in result.problems}


def places(result: VerifyResult) -> list[tuple[Code, str, str]]:
    """Return the code, the file and the field of each problem that a verification found."""
    return [(problem.code, problem.where, problem.field) for problem in result.problems]


def messages(result: VerifyResult) -> str:
    """Return the errors of a verification as text."""
    return "\n".join(map(str, result.problems))


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(dump_json(document))


def content(run: Path, materials: Sequence[str] = ()) -> PackContent:
    """Return the content of a pack that is built from a run's directory."""
    state = run / "state"
    return gather_files(
        reports=sorted(run.glob("embedded__*/reports/**/evaluation.report.json")),
        baselines=list(run.glob("embedded__*/baseline/evaluation.report.json")),
        scenarios=state / "scenarios.json",
        final_verdict=run / "reports" / "final_verdict.json",
        pytest_report=state / "pytest_report.json",
        source_repo=state / "source_repo.json",
        environment=state / "environment.json",
        presets=run / "presets",
        materials=materials,
    )


def contain(files: dict[str, bytes], **context: str) -> dict[str, bytes]:
    """Return a pack's files as if everything had run in a container; ``context`` changes further fields."""
    changed = dict(files)
    digests = {}
    for path in [path for path in files if path.startswith("baselines/")]:
        baseline = json.loads(files[path])
        baseline["context"].update(execution_mode="container", **context)
        changed[path] = dump_json(baseline)
        digests[path.split("/")[1]] = f"sha256:{sha256(changed[path])}"
    for path in [path for path in files if path.endswith("/evaluation.report.json") and path.startswith("reports/")]:
        raw = json.loads(dump_json(strip(json.loads(files[path]))))
        raw["context"].update(execution_mode="container", **context)
        raw["baseline_ref"]["report_sha256"] = digests[path.split("/")[1]]
        changed[path] = dump_json(compose(raw))
        sidecar = path.replace("evaluation.report", "runtime.manifest")
        runtime = json.loads(files[sidecar])
        runtime["report"]["sha256"] = sha256(changed[path])
        runtime["execution_mode"] = "container"
        runtime["context"].update(execution_mode="container", **context)
        runtime["runtime"].update(
            container_execution=True, image_ref="localhost/invarlock:test", image_digest=f"sha256:{'1' * 64}"
        )
        changed[sidecar] = dump_json(runtime)
        if page_of(path) in files:
            changed[page_of(path)] = page(changed[path])
    return changed


def page_of(report: str) -> str:
    """Return the path of a report's page."""
    return report.replace("evaluation.report.json", "evaluation.html")


def page(report: bytes) -> bytes:
    """Return the page that is rendered from a report, or an empty page if it cannot be rendered."""
    try:
        return render_report(json.loads(report), sha256(report))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return b""


def render_overview(pack: Path) -> None:
    """Render the page of a changed pack again, as its maker could. The pack is not resealed."""
    files = pack_files(pack)
    memory = MemoryFiles({path: data for path, data in files.items() if path not in CONTROL_FILES})
    verdict = json.loads(files[VERDICT])
    page = examine_reports(memory).page(json.loads(files["manifest.json"]), memory.digests, verdict)
    (pack / "index.html").write_bytes(page)


def pack_files(pack: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a pack by its path in it."""
    return {str(path.relative_to(pack)): path.read_bytes() for path in sorted(pack.rglob("*")) if path.is_file()}


def seal(pack: Path, key: SigningKey) -> None:
    """Rewrite the checksums, the manifest's digests and the signature of a changed pack.

    Each report's runtime manifest gets the current digest of the report. Pages of changed reports are rendered again.
    """
    promised = (pack / "checksums.sha256").read_text()
    for report in pack.glob("reports/**/evaluation.report.json"):
        digest = sha256(report.read_bytes())
        page_path = report.with_name("evaluation.html")
        if page_path.is_file() and f"{digest}  {report.relative_to(pack)}\n" not in promised:
            page_path.write_bytes(page(report.read_bytes()))
        sidecar = report.with_name("runtime.manifest.json")
        if sidecar.is_file():
            edit_json(sidecar, partial(_name_report, digest=digest))
    digests = {path: sha256(data) for path, data in pack_files(pack).items() if path not in CONTROL_FILES}
    (pack / "checksums.sha256").write_bytes(write_checksums(digests))
    manifest = json.loads((pack / "manifest.json").read_bytes())
    for row in references(manifest):
        if row["path"] in digests:
            row["digest"] = f"sha256:{digests[row['path']]}"
    sign(pack, manifest, key)


def sign(pack: Path, manifest: dict[str, Any], key: SigningKey) -> None:
    """Write and sign a manifest for the existing checksums of a pack."""
    manifest["checksums_sha256_digest"] = sha256((pack / "checksums.sha256").read_bytes())
    sealed = dump_json(manifest)
    (pack / "manifest.json").write_bytes(sealed)
    (pack / "manifest.signature.json").write_bytes(dump_json(sign_manifest(sealed, key)))


def forge(files: dict[str, bytes], path: str, data: bytes, key: SigningKey) -> dict[str, bytes]:
    """Change one file; return it and all files that change as a result: those with its digest, in turn, and the seal.

    Unlike `seal`, it updates digests in all files, including verdict records and summaries. Pages of changed reports
    are rendered again.
    """
    changed = {path: data}
    todo = [path]
    while todo:
        name = todo.pop()
        if name in CONTROL_FILES:
            continue
        old, new = sha256(files[name]), sha256(changed[name])
        for other, was in files.items():
            now = changed.get(other, was)
            if old.encode() in now and other != name:
                changed[other] = now.replace(old.encode(), new.encode())
                if other not in CONTROL_FILES:
                    # other files contain the old digest of `other`, so they must change too
                    todo.append(other)
    for name in [name for name in changed if name.startswith("reports/") and page_of(name) != name]:
        if page_of(name) in files:
            changed[page_of(name)] = page(changed[name])
    all_files = {**files, **changed}
    digests = {name: sha256(content) for name, content in all_files.items() if name not in CONTROL_FILES}
    changed["checksums.sha256"] = write_checksums(digests)
    manifest = json.loads(all_files["manifest.json"])
    for row in references(manifest):
        if row["path"] in digests and path != "manifest.json":
            row["digest"] = f"sha256:{digests[row['path']]}"
    manifest["checksums_sha256_digest"] = sha256(changed["checksums.sha256"])
    changed["manifest.json"] = dump_json(manifest)
    changed["manifest.signature.json"] = dump_json(sign_manifest(changed["manifest.json"], key))
    return changed


def references(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every object of a manifest that has a path and a digest."""
    rows = [manifest.get("subject", {}), manifest.get("environment", {})]
    rows += [manifest.get("invocation", {}).get("config_source", {})]
    rows += [*manifest.get("materials", []), *manifest.get("verification_baselines", [])]
    return [row for row in rows if "path" in row]


def leaves(document: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of every number, string, flag and null of a document."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from leaves(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from leaves(value, (*path, index))
    else:
        yield path


def put(path: Path, data: bytes) -> None:
    """Replace a file. It is deleted first, because some file systems sync a file that is truncated, which is slow."""
    path.unlink()
    path.write_bytes(data)


def change(document: Any, path: Path_) -> None:
    """Change one leaf: a number by 1 %, a flag to its opposite, a digest by a digit, a time's year, other text."""
    for step in path[:-1]:
        document = document[step]
    value = document[path[-1]]
    if isinstance(value, bool):
        new: Any = not value
    elif isinstance(value, int):
        new = value + max(1, abs(value) // 100)
    elif isinstance(value, float):
        new = value * 1.01 or 0.01
    elif value is None:
        new = "x"
    elif re.fullmatch(r"(sha256:)?[0-9a-f]{16,64}", value):
        new = value[:-1] + ("1" if value[-1] == "0" else "0")
    elif re.fullmatch(r"\d{4}-\d\d-\d\dT[0-9:]{8}Z", value):
        new = f"2020{value[4:]}"
    else:
        new = f"{value}x"
    document[path[-1]] = new


def sha256(data: bytes) -> str:
    """Return a SHA-256 digest in hex."""
    return hashlib.sha256(data).hexdigest()


def _name_report(document: dict[str, Any], digest: str) -> None:
    document["report"].update(sha256=digest)
