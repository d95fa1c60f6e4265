"""Verifying that a report matches its schema and that every derived number follows from the raw ones."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from invarlock.catalog.deployables import BACKENDS, DeployableSpec, parse_deployable_spec
from invarlock.catalog.edit_labels import CUSTOM, NOOP, PATH_LABELS
from invarlock.catalog.edit_specs import EDIT_NAMES, CleanSpec, parse_edit_spec
from invarlock.digests import short_digest
from invarlock.errors import DocumentError, InvarLockError
from invarlock.guards import GUARD_NAMES, GUARDS
from invarlock.judgement.slices import text_mistakes
from invarlock.metrics import METRICS
from invarlock.problems import Code, Problem
from invarlock.reports.consistency import consistency_problems
from invarlock.reports.derivation import baseline_run_id, compose, contract_hash, strip
from invarlock.reports.kinds import check_report

# Derived numbers are stored with 12 significant digits; C libraries may differ by one in the last digit.
RELATIVE_TOLERANCE = 2e-12
# Fields that must be equal for a subject and its baseline; library versions are checked with the environment.
MEASURED_ALIKE = {
    "meta": ("model_id", "revision", "device", "dtype", "attention"),
    "context": ("suite", "profile", "tier", "determinism", "execution_mode"),
}
# The maximum number of problems listed, which is enough for a report that is wrong everywhere.
MAX_PROBLEMS = 20
_LEAVES = frozenset({str, float, int, bool})


def verify_report(report: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of a report; empty if it verifies. The caller adds the file name.

    Every derived field is computed again from the raw ones with the functions that wrote it, and compared.
    """
    try:
        check_report(report, "evaluation_report", where="report")
    except DocumentError as error:
        return [problem.coded(Code.REPORT_MALFORMED).of("") for problem in error.problems]
    problems = list(_raw_problems(report)) or list(consistency_problems(report))
    if problems:
        return problems[:MAX_PROBLEMS]
    try:
        expected = compose(strip(report))
    except (InvarLockError, KeyError, TypeError, ValueError, AssertionError, ArithmeticError, IndexError) as error:
        return [
            _contradiction(
                "", f"the raw measurements contradict each other: {type(error).__name__}: {str(error)[:200]}"
            )
        ]
    return list(differences(report, expected))[:MAX_PROBLEMS]


def verify_baseline(baseline: Mapping[str, Any]) -> list[Problem]:
    """Return the parts of a baseline's own report that do not follow from its measurements."""
    problems = []
    own = Code.BASELINE_CONTRADICTS_ITSELF
    if baseline["run_id"] != baseline_run_id(baseline):
        problems.append(Problem(own, "", "run_id", "does not follow from the measurements"))
    begins = baseline["invariants"]["raw"]["prefix_token_ids"]
    if begins is not None and begins != baseline["dataset"]["prefix_token_ids"]:
        problems.append(Problem(own, "", "dataset.prefix_token_ids", "differs from the tokenizer's prefix"))
    for guard in GUARD_NAMES:
        if guard not in baseline:
            continue
        wanted = contract_hash(baseline[guard]["measurement_contract"])
        problems += [
            Problem(Code.CONTRACT_NOT_KEPT, "", field, "was not measured under the measurement contract")
            for field, raw in _baseline_measurements(baseline, guard)
            if raw["measurement_contract_hash"] != wanted
        ]
    return problems


def _baseline_measurements(baseline: Mapping[str, Any], guard: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the measurements of a guard: once for weights, for each draw and its probe for activations."""
    if "raw" in baseline[guard]:
        yield f"{guard}.raw", baseline[guard]["raw"]
        return
    for index, draw in enumerate(baseline["draws"]):
        for where, block in ((f"draws[{index}]", draw), (f"draws[{index}].probe", draw.get("probe", {}))):
            if guard in block:
                yield f"{where}.{guard}", block[guard]


def verify_against_baseline(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Problem]:
    """Return the differences between a report's baseline side and the baseline's own report."""
    return [
        Problem(Code.BASELINE_DIFFERS, "", field, words) for field, words in _baseline_differences(report, baseline)
    ]


def _baseline_differences(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each field that differs from the baseline's report, and the difference."""
    pairs = [(f"baseline_ref.{key}", report["baseline_ref"][key], value) for key, value in baseline["baseline"].items()]
    for block, keys in MEASURED_ALIKE.items():
        pairs += [(f"{block}.{key}", report[block][key], baseline[block][key]) for key in keys]
    dataset = report["dataset"]
    unscored = {key: value for key, value in dataset["windows"].items() if key != "stats"}
    pairs.append(("dataset", {**dataset, "windows": unscored}, baseline["dataset"]))
    yield from ((name, "differs from the baseline's report") for name, own, theirs in pairs if not alike(own, theirs))
    draws = [draw for draw in baseline["draws"] if draw["run"] == report["meta"]["run"]]
    if len(draws) != 1:
        yield "meta.run", f"the baseline's report has {len(draws)} draws of run {report['meta']['run']}, but needs one"
        return
    if report["meta"]["seeds"] != draws[0]["seeds"]:
        yield "meta.seeds", "differ from the baseline's draw"
    for part in ("preview", "final"):
        own, base = report["evaluation_windows"][part], draws[0][part]
        for key, theirs in (
            ("window_ids", "window_ids"),
            ("token_counts", "token_counts"),
            ("baseline_logloss", "logloss"),
        ):
            if not alike(own[key], base[theirs]):
                yield f"evaluation_windows.{part}.{key}", "differs from the measurement in the baseline's report"
        if not alike(own.get("slices"), base.get("slices")):
            yield f"evaluation_windows.{part}.slices", "differs from the measurement in the baseline's report"
    for metric in (metric for metric in METRICS if metric.has_raw):
        if not alike(report[metric.name]["raw"]["baseline"], draws[0][metric.name]):
            yield f"{metric.name}.raw.baseline", "differs from the measurement in the baseline's report"
    for guard in report["guards"]:
        theirs = baseline[guard]["raw"] if "raw" in baseline.get(guard, {}) else draws[0].get(guard)
        if not alike(report[guard]["raw"]["baseline"], theirs):
            yield f"{guard}.raw.baseline", "differs from the measurement in the baseline's report"


def differences(
    found: Any, derived: Any, field: str = "", *, where: str = "", code: Code = Code.NUMBER_DOES_NOT_FOLLOW
) -> Iterator[Problem]:
    """Yield a problem for every value that differs from the derived one.

    Args:
        found: the stored value.
        derived: the derived value.
        field: the location of both in their document.
        where: the file of the document.
        code: the code of a difference.
    """
    return (Problem(code, where, name, words) for name, words in _differing(found, derived, field))


def _differing(found: Any, derived: Any, field: str) -> Iterator[tuple[str, str]]:
    if alike(found, derived):
        return
    if isinstance(found, dict) and isinstance(derived, dict):
        for key in sorted({*found, *derived}):
            inner = f"{field}.{key}" if field else str(key)
            if key not in found:
                yield inner, f"missing, derived {shorten(derived[key])}"
            elif key not in derived:
                yield inner, f"{shorten(found[key])} does not follow from the measurements"
            else:
                yield from _differing(found[key], derived[key], inner)
    elif isinstance(found, list) and isinstance(derived, list):
        if len(found) != len(derived):
            yield field, f"{len(found)} entries, derived {len(derived)}"
        else:
            for index, (own, other) in enumerate(zip(found, derived, strict=True)):
                yield from _differing(own, other, f"{field}[{index}]")
    elif not _same(found, derived):
        yield field, f"{shorten(found)}, derived {shorten(derived)}"


def alike(found: Any, derived: Any) -> bool:
    """Return whether two documents are equal in all values and types: 1 differs from 1.0, and 0.0 from -0.0."""
    kind = type(found)
    if found is derived or kind is not type(derived):
        return found is derived
    if kind is dict:
        if found.keys() != derived.keys():
            return False
        pairs: Iterable[tuple[Any, Any]] = [(value, derived[key]) for key, value in found.items()]
    elif kind is list:
        if len(found) != len(derived):
            return False
        pairs = zip(found, derived, strict=True)
    else:
        return bool(found == derived) and (bool(found) or repr(found) == repr(derived))
    for own, other in pairs:
        # leaves are compared here, because a call per leaf would be too slow
        if own is other or (type(own) in _LEAVES and type(own) is type(other) and own == other and own):
            continue
        if not alike(own, other):
            return False
    return True


def _same(found: Any, derived: Any) -> bool:
    if type(found) is not type(derived):
        return False
    if isinstance(found, float) and found and derived:
        return math.isclose(found, derived, rel_tol=RELATIVE_TOLERANCE, abs_tol=0.0)
    return alike(found, derived)


def shorten(value: Any) -> str:
    """Return a value for a message, truncated to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _edit_problems(edit: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each of an edit's name, label and parameters that does not follow from its spec.

    A custom edit has no spec, so its label comes from ``label_source``; no other edit has this field.
    """
    source = edit.get("label_source")
    if CUSTOM in (edit["name"], edit["label"]) or source is not None:
        yield from differences(
            {key: edit[key] for key in ("name", "spec", "parameters")},
            {"name": CUSTOM, "spec": CUSTOM, "parameters": {}},
            "edit",
            code=Code.EDIT_CONTRADICTS_ITSELF,
        )
        yield from _label_problems(edit["label"], source)
        return
    if edit["label"] != edit["name"]:
        yield _edit("edit.label", f"{shorten(edit['label'])}, derived {shorten(edit['name'])}")
    if edit["name"] not in (*EDIT_NAMES, *BACKENDS):
        if edit["spec"] != edit["name"]:
            yield _edit("edit.spec", f"{shorten(edit['spec'])}, derived {shorten(edit['name'])}")
        return
    try:
        spec = parse_deployable_spec(edit["spec"]) if edit["name"] in BACKENDS else parse_edit_spec(edit["spec"])
    except InvarLockError as error:
        yield _edit("edit.spec", str(error))
        return
    if isinstance(spec, CleanSpec):
        yield _edit("edit.spec", "a report needs the parameters that were used, not 'clean'")
        return
    name = spec.backend if isinstance(spec, DeployableSpec) else spec.edit
    for key, derived in (("name", name), ("parameters", dict(spec.parameters))):
        yield from differences(edit[key], derived, f"edit.{key}", code=Code.EDIT_CONTRADICTS_ITSELF)


def _label_problems(label: str, source: str | None) -> Iterator[Problem]:
    """Yield a problem if the label of a custom edit is invalid."""
    if label == CUSTOM:
        if source not in (None, "given"):
            yield _edit("edit.label_source", f"{source!r}, and {CUSTOM!r} is what an edit without a label is called")
    elif source is None:
        yield _edit("edit.label", f"{shorten(label)}, derived {CUSTOM!r}; there is no label_source")
    elif label == NOOP:
        yield _edit("edit.label", f"{NOOP!r}, and the edit's name is {CUSTOM!r}")
    elif source == "inferred" and label not in PATH_LABELS:
        yield _edit("edit.label", f"{shorten(label)}, which is inferred from no path")


def _raw_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _edit_problems(report["edit"])
    provenance = report["policy_provenance"]
    if (provenance["preset_sha256"] is None) != (not provenance["preset_limits"]):
        yield _contradiction("policy_provenance.preset_limits", "limits and digest of a preset must be given together")
    windows = report["evaluation_windows"]
    seen: set[str] = set()
    for part in ("preview", "final"):
        block = windows[part]
        lengths = {len(values) for values in block.values()}
        if len(lengths) > 1:
            yield _contradiction(f"evaluation_windows.{part}", "its lists differ in length")
        for index, window in enumerate(block["window_ids"]):
            if window in seen:
                yield _contradiction(f"evaluation_windows.{part}.window_ids[{index}]", f"{window} was scored twice")
            seen.add(window)
        yield from _token_problems(f"evaluation_windows.{part}", block, report["dataset"])
    if report["dataset"]["windows"]["final"] != len(windows["final"]["window_ids"]):
        yield _contradiction("dataset.windows.final", "differs from the number of windows scored")
    if report["dataset"]["windows"]["preview"] != len(windows["preview"]["window_ids"]):
        yield _contradiction("dataset.windows.preview", "differs from the number of windows scored")
    for field, message in text_mistakes(report["dataset"], windows):
        yield _contradiction(field if field.startswith("dataset") else f"evaluation_{field}", message)
    yield from _equivalence_problems(report)
    for metric in METRICS:
        yield from metric.raw_problems(report)
    raws = {guard: report[guard]["raw"] for guard in GUARD_NAMES if "raw" in report[guard]}
    for guard in GUARDS:
        name, block = guard.name, report[guard.name]
        if name not in report["guards"]:
            continue
        if name not in raws or "measurement_contract" not in block:
            yield _contradiction(name, "listed in guards, but without raw measurements")
            continue
        yield from guard.raw_problems(f"{name}.raw", block["raw"], raws)
        yield from _family_problems(name, block["raw"])
        wanted = contract_hash(block["measurement_contract"])
        for side in ("baseline", "subject"):
            if block["raw"][side].get("measurement_contract_hash") != wanted:
                yield Problem(
                    Code.CONTRACT_NOT_KEPT, "", f"{name}.raw.{side}", "was not measured under the measurement contract"
                )


def _equivalence_problems(report: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield inconsistencies between the differences removed before comparing weights and the matrices compared."""
    kinds = [row["kind"] for row in report.get("equivalence", ())]
    if len(set(kinds)) < len(kinds):
        yield _contradiction("equivalence", "a kind is listed twice")
    raw = report["spectral"].get("raw")
    if raw is None:
        return
    canonical = raw.get("canonical")
    # removing differences of names leaves the matrices unchanged
    if (canonical is None) != (not {*kinds} - {"names"}):
        yield _contradiction("spectral.raw.canonical", "must exist exactly if the report has an equivalence")
    if canonical is None or "norms" in kinds:
        return
    for name, row in canonical["baseline"].items():
        if name in raw["baseline"]["modules"] and row != raw["baseline"]["modules"][name]:
            where = f"spectral.raw.canonical.baseline.{name}"
            yield _contradiction(where, "not the stored matrix, and no norm was folded into it")


def _token_problems(where: str, block: Mapping[str, Any], dataset: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each window whose recorded token ids do not match the digest in its id."""
    prefix = dataset["prefix_token_ids"]
    rows = zip(block["window_ids"], block.get("token_ids", ()), block["token_counts"], strict=False)
    for index, (window, text, count) in enumerate(rows):
        ids, seq_len = [int(token) for token in text.split(" ")], count + 1
        if len(ids) != seq_len or max(ids) >= 1 << 31:
            yield _contradiction(f"{where}.token_ids[{index}]", f"not {seq_len} token ids")
        elif short_digest(struct.pack(f"<{seq_len}i", *ids)) != window:
            yield _contradiction(f"{where}.token_ids[{index}]", f"not the tokens of window {window}")
        elif ids[: len(prefix)] != prefix:
            yield _contradiction(f"{where}.token_ids[{index}]", f"the window does not begin with {prefix}")


def _family_problems(guard: str, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each tensor whose family differs between the sides, since its name determines the family."""
    for kind in ("tensors", "modules"):
        before, after = raw["baseline"].get(kind, {}), raw["subject"].get(kind, {})
        moved = [
            name for name, row in before.items() if name in after and row.get("family") != after[name].get("family")
        ]
        for name in sorted(moved):
            yield _contradiction(f"{guard}.raw.subject.{kind}.{name}.family", "differs from the baseline")


def _edit(field: str, message: str) -> Problem:
    return Problem(Code.EDIT_CONTRADICTS_ITSELF, "", field, message)


def _contradiction(field: str, message: str) -> Problem:
    return Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", field, message)
