"""Deriving the claims in a pack's manifest and metadata from its reports and its effective manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.packer.format import layout
from invarlock.packer.format.checksums import MANIFEST_NAME
from invarlock.packer.format.contents import PackFiles
from invarlock.packer.format.in_pack import in_pack
from invarlock.packer.format.references import reference
from invarlock.packer.verify.evidence import evidence_level
from invarlock.packer.verify.reports import Findings

from invarlock.catalog.pins import parse_pins
from invarlock.catalog.sweeps import step_problem
from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, IntegrityError, InvarLockError
from invarlock.jsonio import check_schema
from invarlock.problems import Code, Problem
from invarlock.reports.verification import differences, shorten

CLAIM = Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW
SOURCE_KEYS = ("uri", "commit", "branch", "describe", "dirty")
# Text sources that are data sets on a hub.
HUB_TEXTS = frozenset({"wikitext2", "hf_text"})
LEVELS = ("low", "medium", "high")
# The profiles of release reviews.
REVIEW_PROFILES = frozenset({"ci", "release"})
# The fields of the manifest about the selection of models and suites.
SELECTED = ("suite", "model_list", "models", "model_licenses", "verification_baselines")
# Settings of the run that every report records too; null means the profile's default.
SHOWN_SETTINGS = ("profile", "tier", "seq_len", "preview_windows", "final_windows", "intent")


def derive_manifest(found: Findings, digests: Mapping[str, str]) -> JsonObject:
    """Return the manifest fields that follow from the pack's files, in the form that the builder writes.

    Raises:
        DocumentError: when the pack has no effective manifest.
    """
    if found.planned.scenarios is None:
        words = "missing or malformed, but the manifest is derived from it"
        raise DocumentError(words, where=layout.SCENARIOS, code=Code.PLAN_MISSING)
    selection = found.planned.scenarios["selection"]
    fields: JsonObject = {
        "suite": selection["suite"],
        "network_mode": "online" if any(facts.allows_network for facts in found.facts.values()) else "offline",
        "determinism": _common(found, "determinism"),
        "repeats": max((len(facts.repeats["runs"]) for facts in found.facts.values() if facts.repeats), default=0),
        "model_list": [row["model_id"] for row in selection["models"]],
        "models": [{key: row[key] for key in ("model_id", "revision")} for row in selection["models"]],
        "model_licenses": {row["model_id"]: row["licence"] for row in selection["models"]},
        "verification_baselines": [
            {
                "name": layout.model_folder(path),
                **reference(digests, path),
                "report_paths": [
                    name for name in found.facts if layout.model_folder(name) == layout.model_folder(path)
                ],
            }
            for path in found.baselines
        ],
        "verification": {
            "clean_reports": len(found.of_kind("clean")),
            "stress_reports": len(found.of_kind("stress")),
            "error_injection_reports": len(found.of_kind("error_injection")),
            "failed_reports": 0,
            "policy_profile": ", ".join(sorted({facts.context["profile"] for facts in found.facts.values()})),
        },
    }
    if layout.VERDICT_JSON in digests:
        fields["subject"] = {"name": "final_verdict", **reference(digests, layout.VERDICT_JSON)}
    if layout.ENVIRONMENT in digests:
        fields["environment"] = reference(digests, layout.ENVIRONMENT)
    return fields


def derive_source(files: PackFiles) -> JsonObject | None:
    """Return ``invocation.config_source`` from ``metadata/source_repo.json``, or None if the pack has no such file.

    Raises:
        DocumentError, IntegrityError: when the file cannot be read.
    """
    if layout.SOURCE_REPO not in files.digests:
        return None
    source = files.document(layout.SOURCE_REPO)
    if not isinstance(source, dict):
        raise DocumentError("not an object", where=layout.SOURCE_REPO, code=Code.FILE_MALFORMED)
    return {**{key: source.get(key) for key in SOURCE_KEYS}, **reference(files.digests, layout.SOURCE_REPO)}


def manifest_problems(
    manifest: Mapping[str, Any], found: Findings, files: PackFiles, verdict: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield a problem for each claim of the manifest that does not follow; an absent field claims nothing.

    Args:
        manifest: the manifest, whose blocks may be partial.
        found: the findings of the reports.
        files: the files of the pack.
        verdict: the derived verdict, or None.
    """
    try:
        derived = {} if found.planned.scenarios is None else derive_manifest(found, files.digests)
        source = derive_source(files)
    except InvarLockError as error:
        yield from in_pack(error)
        return
    if found.planned.scenarios is None:
        yield from _baseless_claims(manifest)
    for key, value in derived.items():
        if key in manifest:
            # model names are data, not optional fields: every claimed model must exist
            own, other = (manifest[key], value) if key == "model_licenses" else _in_common(manifest[key], value)
            if key == "model_licenses":
                other = {name: value[name] for name in own if name in value}
            yield from differences(own, other, key, where=MANIFEST_NAME, code=CLAIM)
    claimed_source = manifest.get("invocation", {}).get("config_source")
    if claimed_source:
        own, other = _in_common(claimed_source, source)
        yield from differences(own, other, "invocation.config_source", where=MANIFEST_NAME, code=CLAIM)
    builder = manifest.get("builder", {}).get("version")
    if builder is not None and manifest.get("invarlock_version", builder) != builder:
        yield Problem(CLAIM, MANIFEST_NAME, "invarlock_version", "differs from builder.version")
    yield from _level_problems(manifest, found, verdict)
    yield from _setting_problems(manifest, found)
    yield from _sealed_settings(manifest, files)
    yield from _review_problems(manifest, found, verdict)


def _sealed_settings(manifest: Mapping[str, Any], files: PackFiles) -> Iterator[Problem]:
    """Yield the differences between the sealed settings and the manifest."""
    if layout.SETTINGS not in files.digests:
        return
    try:
        settings = files.document(layout.SETTINGS)
    except DocumentError as error:
        yield from in_pack(error)
        return
    except IntegrityError:
        return
    # a setting that the manifest omits claims nothing
    parameters, sealed = _in_common(manifest.get("invocation", {}).get("parameters", {}), settings)
    yield from differences(sealed, parameters, where=layout.SETTINGS, code=Code.SETTINGS_DIFFER)


def _baseless_claims(manifest: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the claims of a manifest that a pack without an effective manifest cannot support."""
    claimed = [key for key in ("subject", *SELECTED, "network_mode", "determinism", "repeats") if manifest.get(key)]
    counts = manifest.get("verification", {})
    claimed += [f"verification.{key}" for key in sorted(counts) if key.endswith("_reports") and counts[key]]
    words = f"is claimed, but the pack has no {layout.SCENARIOS} to derive it from"
    yield from (Problem(CLAIM, MANIFEST_NAME, key, words) for key in claimed)


def _in_common(claimed: Any, derived: Any) -> tuple[Any, Any]:
    """Reduce two values to the fields that both have, and return them; list rows are matched by position."""
    if isinstance(claimed, dict) and isinstance(derived, dict):
        pairs = {key: _in_common(claimed[key], derived[key]) for key in derived if key in claimed}
        return {key: own for key, (own, _) in pairs.items()}, {key: other for key, (_, other) in pairs.items()}
    if isinstance(claimed, list) and isinstance(derived, list) and len(claimed) == len(derived):
        rows = [_in_common(own, other) for own, other in zip(claimed, derived, strict=True)]
        return [own for own, _ in rows], [other for _, other in rows]
    return claimed, derived


def metadata_problems(found: Findings, files: PackFiles) -> Iterator[Problem]:
    """Yield contradictions among the files under ``metadata/``, and between them and the effective manifest."""
    try:
        yield from _provenance_problems(found, files)
        yield from _version_problems(found, files)
        if found.planned.scenarios is not None:
            yield from _selection_problems(found)
            yield from _weight_problems(found.planned.scenarios, files)
            yield from _pin_problems(found, files)
    except DocumentError as error:
        yield from in_pack(error)
    except IntegrityError:
        return


def _common(found: Findings, key: str) -> str:
    values = sorted({str(facts.context[key]) for facts in found.facts.values()})
    return values[0] if len(values) == 1 else "mixed"


def _level_problems(
    manifest: Mapping[str, Any], found: Findings, verdict: Mapping[str, Any] | None
) -> Iterator[Problem]:
    clean = found.of_kind("clean")
    level, claimed = (
        evidence_level(manifest, len(clean), verdict, is_served=found.serves_clean),
        manifest.get("evidence_level", "low"),
    )
    if LEVELS.index(claimed) > LEVELS.index(level):
        words = f"{claimed} is claimed, but the pack supports only {level}"
        yield Problem(Code.EVIDENCE_LEVEL_TOO_HIGH, MANIFEST_NAME, "evidence_level", words)
    assurance = manifest.get("verification", {}).get("report_assurance")
    if assurance == "strict" and not (clean and all(facts.in_container for facts in clean)):
        words = "strict is claimed, but a clean report was not made in a container"
        yield Problem(Code.EVIDENCE_LEVEL_TOO_HIGH, MANIFEST_NAME, "verification.report_assurance", words)


def _setting_problems(manifest: Mapping[str, Any], found: Findings) -> Iterator[Problem]:
    """Yield a problem for each setting of the run that differs from its reports."""
    assurance = manifest.get("verification", {}).get("report_assurance")
    if _setting(manifest, "report_assurance") not in (None, assurance):
        words = "differs from invocation.parameters"
        yield Problem(Code.SETTINGS_DIFFER, MANIFEST_NAME, "verification.report_assurance", words)
    for name in SHOWN_SETTINGS:
        value = _setting(manifest, name)
        shown = sorted({facts.settings[name] for facts in found.facts.values()})
        if value is not None and shown and shown != [value]:
            words = f"{shorten(value)}, but the reports show {shown}"
            yield Problem(Code.SETTINGS_DIFFER, MANIFEST_NAME, f"invocation.parameters.{name}", words)


def _review_problems(
    manifest: Mapping[str, Any], found: Findings, verdict: Mapping[str, Any] | None
) -> Iterator[Problem]:
    """Yield the unmet requirements of a release review if the manifest claims one."""
    if _setting(manifest, "release_review") is True:
        for words in _review_lacks(manifest, found, verdict):
            field = "invocation.parameters.release_review"
            yield Problem(Code.REVIEW_NOT_SUPPORTED, MANIFEST_NAME, field, f"is claimed, but {words}")


def _review_lacks(manifest: Mapping[str, Any], found: Findings, verdict: Mapping[str, Any] | None) -> Iterator[str]:
    said = None if verdict is None else verdict["verdict"]
    if said != "PASS":
        yield f"the verdict is {said}"
    if manifest.get("verification", {}).get("report_assurance") != "strict":
        yield "verification.report_assurance is not strict"
    if "signing_key_fingerprint" not in manifest:
        yield "the pack has no signer"
    profiles = sorted({facts.context["profile"] for facts in found.facts.values()} - REVIEW_PROFILES)
    if profiles:
        yield f"the profile of the reports is {profiles[0]}"


def _setting(manifest: Mapping[str, Any], setting: str) -> Any:
    """Return the value of a setting of the run, or None if the manifest does not state it."""
    row = manifest.get("invocation", {}).get("parameters", {}).get(setting)
    return row.get("value") if isinstance(row, dict) else None


def _selection_problems(found: Findings) -> Iterator[Problem]:
    assert found.planned.scenarios is not None
    selection = found.planned.scenarios["selection"]
    revisions = {row["model_id"]: row["revision"] for row in selection["models"]}
    pairs = {
        "scenario_ids": sorted({case["scenario"] for case in selection["cases"]}),
        "models": sorted({case["model"] for case in selection["cases"]}),
    }
    claimed = {
        "scenario_ids": selection["scenario_ids"],
        "models": [row["model_id"] for row in selection["models"]],
    }
    contradiction = Code.PLAN_CONTRADICTS_ITSELF
    yield from differences(claimed, pairs, "selection", where=layout.SCENARIOS, code=contradiction)
    unused = sorted({row["id"] for row in found.planned.scenarios["scenarios"]} - set(pairs["scenario_ids"]))
    lines = [f"scenario {name} has no case" for name in unused]
    steps = map(step_problem, found.planned.scenarios["scenarios"])
    lines += [line for line in steps if line is not None]
    yield from (Problem(contradiction, layout.SCENARIOS, "scenarios", line) for line in lines)
    for path, baseline in found.baselines.items():
        if baseline.model_id not in pairs["models"]:
            yield Problem(Code.PLAN_DIFFERS, path, "meta.model_id", "the baseline of a model that was not selected")
    for facts in found.facts.values():
        if facts.context["suite"] != selection["suite"]:
            yield Problem(Code.PLAN_DIFFERS, facts.path, "context.suite", f"differs from {layout.SCENARIOS}")
        if facts.revision != revisions.get(facts.model_id, facts.revision):
            yield Problem(Code.PLAN_DIFFERS, facts.path, "meta.revision", f"differs from {layout.SCENARIOS}")


def _weight_problems(scenarios: Mapping[str, Any], files: PackFiles) -> Iterator[Problem]:
    """Yield a problem for weights that no scenario declares, and for declared weights that are missing."""
    weights = [path for path in files.digests if path.endswith(layout.WEIGHT_SUFFIXES)]
    claimed = [row["id"] for row in scenarios["scenarios"] if row.get("contains_model_weights_in_pack")]
    if weights and not claimed:
        words = "weights, although no scenario has contains_model_weights_in_pack"
        yield Problem(Code.WEIGHTS_NOT_DECLARED, weights[0], "", words)
    if claimed and not weights:
        words = f"{claimed[0]} has contains_model_weights_in_pack, but the pack has no weights"
        yield Problem(Code.WEIGHTS_NOT_DECLARED, layout.SCENARIOS, "scenarios", words)


def _provenance_problems(found: Findings, files: PackFiles) -> Iterator[Problem]:
    """Yield a problem if provenance and reports have different determinism modes.

    Raises:
        DocumentError: when a provenance file does not match its format.
    """
    if layout.SOURCE_REPO in files.digests:
        check_schema(files.document(layout.SOURCE_REPO), "source_repo", where=layout.SOURCE_REPO)
    if layout.ENVIRONMENT not in files.digests:
        return
    document = files.document(layout.ENVIRONMENT)
    check_schema(document, "environment", where=layout.ENVIRONMENT)
    said, mode = document["determinism"]["mode"], _common(found, "determinism")
    if found.facts and said != mode:
        words = f"{said}, but the reports show {mode}"
        yield Problem(Code.ENVIRONMENT_DIFFERS, layout.ENVIRONMENT, "determinism.mode", words)


def _version_problems(found: Findings, files: PackFiles) -> Iterator[Problem]:
    """Yield a problem for each report whose library versions differ from ``metadata/environment.json``."""
    if layout.ENVIRONMENT not in files.digests:
        return
    document = files.document(layout.ENVIRONMENT)
    said = {**document["libraries"], "python": document["python"]["version"]}
    measured = {path: baseline.versions for path, baseline in found.baselines.items()}
    measured |= {path: facts.versions for path, facts in found.facts.items()}
    for path, versions in measured.items():
        for name, version in versions.items():
            if said.get(name, version) not in (None, version):
                other = f"but {layout.ENVIRONMENT} has {shorten(said[name])}"
                words = f"{shorten(version)}, {other}"
                yield Problem(Code.ENVIRONMENT_DIFFERS, path, f"meta.versions.{name}", words)


def _pin_problems(found: Findings, files: PackFiles) -> Iterator[Problem]:
    """Yield a problem for pins that do not match the selected models, and for baselines that differ from their pin."""
    if layout.MODEL_REVISIONS not in files.digests:
        return
    assert found.planned.scenarios is not None
    where = layout.MODEL_REVISIONS
    pins = parse_pins(files.document(where), where=where)
    rows = [{"model_id": pin.id, "revision": pin.revision, "licence": pin.licence} for pin in pins.models.values()]
    planned = found.planned.scenarios["selection"]["models"]
    yield from differences(rows, planned, "models", where=where, code=Code.PINS_DIFFER)
    for pin in pins.models.values():
        if pin.revision.startswith("sha256:") and pin.digest not in (None, pin.revision):
            words = f"the revision of {shorten(pin.id)} is not the digest of its files"
            yield Problem(Code.PINS_DIFFER, where, "models", words)
    for path, baseline in found.baselines.items():
        model_id = baseline.model_id
        pinned = pins.models.get(model_id)
        digest = None if pinned is None else pinned.digest
        if digest is None:
            words = f"pins no files of {shorten(model_id)}, although {path} measured it"
            yield Problem(Code.PINS_DIFFER, where, "models", words)
        elif digest != baseline.digest:
            words = f"differs from the files pinned in {where}"
            yield Problem(Code.PINS_DIFFER, path, "baseline.digest", words)
    scored_on = sorted({name for baseline in found.baselines.values() for name in baseline.text_providers} & HUB_TEXTS)
    if scored_on and not any(pin.files for pin in pins.datasets.values()):
        words = f"pins no data set, but the baselines were scored on {scored_on[0]}"
        yield Problem(Code.PINS_DIFFER, where, "datasets", words)
    if found.baselines and pins.datasets and not scored_on:
        words = "pins a data set, but the baselines were not scored on one"
        yield Problem(Code.PINS_DIFFER, where, "datasets", words)
