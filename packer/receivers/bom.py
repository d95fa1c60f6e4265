"""A verified subject as a CycloneDX 1.6 machine-learning BOM: the model, its ancestor, its numbers, its evidence.

Example::

    document = make_bom(read_subject(Path("PACK"), SubjectOptions()), Presentation())

The same pack gives the same document: the serial number follows from the content, and the time is the pack's.

Source: CycloneDX v1.6 (https://cyclonedx.org/docs/1.6/json/).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from invarlock.packer.receivers.measures import Measure, confidence_of, measures
from invarlock.packer.receivers.presentation import Presentation, hub_baseline, model_name, storage_of
from invarlock.packer.receivers.subjects import PackSubject
from invarlock.packer.trust.checkpoint_subjects import CHECKPOINT_DIGEST

from invarlock import __version__
from invarlock.documents import JsonObject
from invarlock.jsonio import digest_document
from invarlock.pages.numbers import change_text, share_text
from invarlock.reports.derivation import SERVED_REASON
from invarlock.reports.page_facts import report_warnings
from invarlock.reports.served import is_served, stated_words

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
# The namespace of our serial numbers, which are UUIDs of version 5 (RFC 9562).
SERIAL_NUMBERS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:invarlock:bom")
PACK_URN = "urn:invarlock:evidence-pack:sha256:{digest}"
PACK_COMMENT = "InvarLock evidence pack; the hash is that of its manifest.json, which fixes every file"
# SPDX identifiers of licences that models often have; other licences keep the name that the pack gives them.
SPDX = frozenset(
    {"Apache-2.0", "MIT", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"}
)

Report = Mapping[str, Any]


def make_bom(subject: PackSubject, given: Presentation) -> JsonObject:
    """Return the BOM of a subject."""
    document: JsonObject = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            **_timestamp(subject),
            "tools": {"components": [{"type": "application", "name": "InvarLock", "version": __version__}]},
            "component": _model(subject, given),
        },
        "components": list(_texts(subject.report)),
        "properties": _properties("pack", _pack_facts(subject)),
    }
    serial = uuid.uuid5(SERIAL_NUMBERS, digest_document(document))
    return {**document, "serialNumber": f"urn:uuid:{serial}"}


def _timestamp(subject: PackSubject) -> JsonObject:
    made = subject.pack.manifest.get("generated_at")
    return {} if made is None else {"timestamp": made}


def _model(subject: PackSubject, given: Presentation) -> JsonObject:
    report = subject.report
    facts = {
        "case": subject.name,
        "expected": subject.runs[0].record["strictness"],
        "verdict": "PASS" if subject.passes else "FAIL",
        "gate_failed": [line for run in subject.runs for line in run.report["assurance"]["blocking_reasons"]],
        "edit": report["edit"]["label"],
        "edit_spec": report["edit"]["spec"],
        "tier": report["context"]["tier"],
        "profile": report["context"]["profile"],
        "interval_confidence": confidence_of(report),
        "digest_method": CHECKPOINT_DIGEST,
    }
    storage = storage_of(report, "subject")
    quantisation = {} if storage is None else storage["quantisation"] or {}
    return {
        "type": "machine-learning-model",
        "bom-ref": "subject",
        "name": model_name(subject, given),
        **_hashes(report["subject"]["digest"]),
        **_files(subject.files),
        "pedigree": {"ancestors": [_baseline(subject)], "notes": _change(report)},
        "externalReferences": [
            {
                "type": "evidence",
                "url": given.pack_url or PACK_URN.format(digest=subject.manifest_sha256),
                "comment": PACK_COMMENT,
                **_hashes(f"sha256:{subject.manifest_sha256}"),
            }
        ],
        "modelCard": _card(subject),
        "properties": [
            *_properties("case", facts),
            *_properties("storage", _plain(storage)),
            *_properties("quantisation", _plain(quantisation)),
            *_properties("model_signature", report["subject"].get("model_signature", {})),
            *_properties("served", _stated(report)),
        ],
    }


def _stated(report: Report) -> JsonObject:
    """Return the unproven statements of a server about its model."""
    served = report["subject"].get("served")
    return {} if served is None else {"model_as_stated": served["model"], "stated": stated_words(served)}


def _baseline(subject: PackSubject) -> JsonObject:
    report = subject.report
    name, revision = report["meta"]["model_id"], report["meta"]["revision"]
    licence = subject.pack.manifest.get("model_licenses", {}).get(name)
    hub = hub_baseline(report)
    return {
        "type": "machine-learning-model",
        "bom-ref": "baseline",
        "name": name,
        **({} if revision is None else {"version": revision}),
        **({} if hub is None else {"purl": f"pkg:huggingface/{hub}@{revision}"}),
        **({} if licence in (None, "unknown") else {"licenses": [{"license": _licence(licence)}]}),
        **_hashes(report["baseline_ref"]["digest"]),
        **_files(subject.baseline_files),
        "properties": [
            *_properties("checkpoint", {"digest_method": CHECKPOINT_DIGEST}),
            *_properties("storage", _plain(storage_of(report, "baseline"))),
            *_properties("model_signature", report["baseline_ref"].get("model_signature", {})),
        ],
    }


def _card(subject: PackSubject) -> JsonObject:
    report = subject.report
    raw = report["invariants"].get("raw")
    architecture = {} if raw is None else {"modelArchitecture": raw["subject"]["config"]["model_type"]}
    several = len(subject.runs) > 1
    return {
        "modelParameters": {
            "task": "text-generation",
            **architecture,
            "datasets": [{"ref": row["bom-ref"]} for row in _texts(report)],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [_metric(measure, several=several) for measure in measures(subject)]
        },
        "considerations": {
            "technicalLimitations": list(_limitations(subject)),
            **_tradeoff(report),
        },
    }


def _metric(measure: Measure, *, several: bool) -> JsonObject:
    part = ", ".join([*([f"run {measure.run}"] if several else []), *([measure.part] if measure.part else [])])
    row: JsonObject = {"type": measure.name, "value": repr(measure.value)}
    if part:
        row["slice"] = part
    if measure.interval is not None:
        low, high = map(repr, measure.interval)
        row["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
    return row


def _limitations(subject: PackSubject) -> Iterator[str]:
    dataset = subject.report["dataset"]
    yield (
        f"measured on {dataset['windows']['final']} windows of {dataset['seq_len']} tokens of the texts of this model "
        "card; other text, tasks and safety are not covered"
    )
    if is_served(subject.report):
        yield SERVED_REASON
    for run in subject.runs:
        if run.report["scoring"]["not_scored"] is not None:
            yield f"not scored: {run.report['scoring']['not_scored']}"
        yield from report_warnings(run.report)


def _tradeoff(report: Report) -> JsonObject:
    own, base = (storage_of(report, side) for side in ("subject", "baseline"))
    ratio = report["primary_metric"]["ratio_vs_baseline"]
    if own is None or base is None or ratio is None:
        return {}
    share = share_text(own["stored_bytes"] / max(base["stored_bytes"], 1))
    return {"performanceTradeoffs": [f"{share} of the baseline's bytes, {change_text(ratio)} perplexity"]}


def _texts(report: Report) -> Iterator[JsonObject]:
    """Yield the text of a report, or each of its slices, as components."""
    dataset = report["dataset"]
    for row in dataset.get("slices", [dataset]):
        name = row.get("name")
        yield {
            "type": "data",
            "bom-ref": "text" if name is None else f"text:{name}",
            "name": row["provider"] if name is None else f"{name}: {row['provider']}",
            **_hashes(row["source_sha256"]),
        }


def _pack_facts(subject: PackSubject) -> JsonObject:
    pack = subject.pack
    counts = pack.verdict["counts"]
    return {
        "manifest_sha256": subject.manifest_sha256,
        "signed": subject.signer is not None,
        "signer": subject.signer,
        "verdict": pack.verdict["verdict"],
        "strong": pack.strong,
        "suite": pack.manifest.get("suite"),
        "made_by": f"InvarLock {pack.manifest.get('invarlock_version', 'of a version not stated')}",
        "cases_as_expected": counts["records_passed"],
        "cases": counts["cases_total"],
        "faults_detected": counts["error_injection_detected"],
    }


def _change(report: Report) -> str:
    edit = report["edit"]
    return f"made from the ancestor by {edit['label']} ({edit['spec']}), as its maker states"


def _licence(name: str) -> JsonObject:
    return {"id": name} if name in SPDX else {"name": name}


def _hashes(digest: str | None) -> JsonObject:
    return {} if digest is None else {"hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]}


def _files(files: Mapping[str, str]) -> JsonObject:
    rows = [{"type": "file", "name": name, **_hashes(digest)} for name, digest in sorted(files.items())]
    return {"components": rows} if rows else {}


def _plain(block: Mapping[str, Any] | None) -> JsonObject:
    """Return a block without its nested blocks, and with each list replaced by the number of its entries."""
    plain = {} if block is None else {key: value for key, value in block.items() if not isinstance(value, Mapping)}
    return {key: len(value) if isinstance(value, list) else value for key, value in plain.items()}


def _properties(group: str, facts: Mapping[str, Any]) -> list[JsonObject]:
    """Return facts as properties: none for a fact without a value, one per value for a fact with several."""
    rows: list[JsonObject] = []
    for name, value in facts.items():
        values: Iterable[Any] = value if isinstance(value, list) else [value]
        rows += [{"name": f"invarlock:{group}:{name}", "value": _text(one)} for one in values if one is not None]
    return rows


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
