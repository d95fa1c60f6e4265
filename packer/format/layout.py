"""The layout of a pack: the path of each file."""

from __future__ import annotations

import re
import unicodedata

VERDICT_JSON = "results/final_verdict.json"
VERDICT_TEXT = "results/final_verdict.txt"
ARTIFACT_SUMMARY = "results/edit_artifact_summary.json"
SECONDS_SUMMARY = "results/analysis/evaluation_optimization_summary.json"
SCENARIOS = "metadata/scenarios.json"
PYTEST_REPORT = "metadata/pytest_report.json"
# The run's settings; the manifest has the same ones under invocation.parameters.
SETTINGS = "metadata/settings.json"
MODEL_REVISIONS = "metadata/model_revisions.json"
TUNED_PARAMS = "metadata/tuned_edit_params.json"
SOURCE_REPO = "metadata/source_repo.json"
ENVIRONMENT = "metadata/environment.json"
# Presets by model as JSON and YAML; a folder per model holds the null runs that its preset is derived from.
PRESETS = "metadata/presets/"
README = "README.md"
# The overview of a pack for browsers, if pages were rendered.
PACK_PAGE = "index.html"
REPORT_NAME = "evaluation.report.json"
RUNTIME_MANIFEST = "runtime.manifest.json"
EDIT_METADATA = "edit_metadata.json"
TIMING = "evaluate_timing.json"
REPORT_VERIFICATION = "verify.json"
# The HTML report, if pages were rendered.
PAGE = "evaluation.html"
SIDECARS = (RUNTIME_MANIFEST, EDIT_METADATA, TIMING)
# The suite of reports that ``invarlock evaluate`` writes.
PAIR_SUITE = "evaluate"
# Files in the folders of reports whose scenario requires them.
PROBES = ("rmt_probe.json", "ve_probe.json")
# Files in the folders of reports on deployable subjects.
DEPLOYABLES = (
    "backend_inventory.json",
    "memory_report.json",
    "load_smoke.json",
    "inference_smoke.json",
    "deployable_artifact_validation.json",
)
# The file in the folder of each report that was measured more than once, and the summary of all these files.
REPEATS = "determinism_repeats.json"
REPEATS_SUMMARY = "results/determinism_repeats.json"
# The verdict as a badge; packs from before badges existed have none.
BADGE = "results/badge.json"
# Present if a guard-value sweep was run.
GUARD_VALUE = "reports/guard_value_all_guard_probe_sweep.json"

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")

# Folders that hold only reports, their accompanying files, and results derived from them.
DERIVED_FOLDERS = ("results/", "reports/", "baselines/")

_READ_METADATA = frozenset(
    {SCENARIOS, SETTINGS, PYTEST_REPORT, MODEL_REVISIONS, TUNED_PARAMS, SOURCE_REPO, ENVIRONMENT}
)

_REPORT = re.compile(rf"reports/[^/]+/[^/]+/[^/]+/{re.escape(REPORT_NAME)}")
_BASELINE = re.compile(rf"baselines/([^/]+)/{re.escape(REPORT_NAME)}")


def is_report(path: str) -> bool:
    """Return whether a path is that of a case's report."""
    return _REPORT.fullmatch(path) is not None


def is_baseline(path: str) -> bool:
    """Return whether a path is that of a baseline's own report."""
    return _BASELINE.fullmatch(path) is not None


def baseline_path(model_folder: str) -> str:
    """Return the path of a baseline's own report."""
    return f"baselines/{model_folder}/{REPORT_NAME}"


def sibling(report_path: str, name: str) -> str:
    """Return the path of a file in a report's folder."""
    return f"{report_path.removesuffix(REPORT_NAME)}{name}"


def model_folder(path: str) -> str:
    """Return the model's folder of a path below ``reports/`` or ``baselines/``."""
    return path.split("/")[1]


def is_page(path: str) -> bool:
    """Return whether a path, ignoring case, is that of a page that people open in a browser."""
    folded = path.casefold()
    return folded == PACK_PAGE or folded.rpartition("/")[2] == PAGE


def is_read(path: str) -> bool:
    """Return whether a file is read to derive claims; fully derived files are only compared by digest."""
    name = path.rsplit("/", 1)[-1]
    below_reports = path.startswith(("reports/", "baselines/")) and name in (
        REPORT_NAME,
        *SIDECARS,
        *PROBES,
        *DEPLOYABLES,
        REPEATS,
    )
    return below_reports or path.startswith(PRESETS) or path in _READ_METADATA or path in (VERDICT_JSON, README)


def looks_checked(path: str) -> bool:
    """Return whether a path is not checked but resembles a checked one, for example differs from it only by case."""
    folded = unicodedata.normalize("NFKC", path).casefold()
    named = folded in {name.casefold() for name in (*_READ_METADATA, README, PACK_PAGE)}
    return not is_checked(path) and (named or folded.startswith((*DERIVED_FOLDERS, PRESETS)))


def is_checked(path: str) -> bool:
    """Return whether a file is compared with the reports as well as with its checksum."""
    return path.startswith((*DERIVED_FOLDERS, PRESETS)) or path in _READ_METADATA or path in (README, PACK_PAGE)
