"""The HTML page of a report, ``evaluation.html``: self-contained, for browsers and print.

Example::

    data = render_report(report, sha256_hex(report_bytes))

The page depends only on the report's bytes and its place in a pack; the verifier of a pack renders it again and
compares it. Numbers are only formatted and subtracted, so that they are the same on every platform; mappings are
sorted. Every text is escaped (``markup``), nothing is loaded from elsewhere, and the size of the page is bounded for
any report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from invarlock.catalog.edit_labels import edit_text
from invarlock.guards import BY_NAME
from invarlock.guards.guard import Guard
from invarlock.judgement.gate import Gate
from invarlock.metrics import METRICS
from invarlock.pages.document import html_document, link
from invarlock.pages.markup import Markup, breakable, element, join
from invarlock.pages.numbers import bytes_text, share_text
from invarlock.pages.parts import (
    code,
    compact,
    counted,
    data_table,
    definition_list,
    listed,
    number_text,
    pill,
    plain_text,
)
from invarlock.reports.case_place import CasePlace
from invarlock.reports.gates import judge_gates
from invarlock.reports.page_facts import few_windows, report_warnings
from invarlock.reports.served import NOTHING_PROVES, stated_words

MAX_VIOLATIONS = 8
# The maximum number of warnings; each guard and gate has at most one.
MAX_WARNINGS = 20
# The maximum number of limits listed; a tier has about 40.
MAX_LIMITS = 80
# The number of rendered policies to cache. Reports are rendered model by model, and a policy with a preset for a
# thousand modules takes about 100 KB.
KEPT_POLICIES = 8


def render_report(report: Mapping[str, Any], sha256: str, place: CasePlace | None = None) -> bytes:
    """Return the HTML page of a verified report, as UTF-8.

    Args:
        report: the document.
        sha256: the SHA-256 of the report's bytes, 64 hex.
        place: the report's place in a pack, None outside a pack.
    """
    gates = judge_gates(report, report["resolved_policy"])
    primary, *others = METRICS
    title = f"{_subject_name(report)} compared with {report['meta']['model_id']}"
    body = join(
        (
            _header(report, title, place),
            element(
                "main",
                *_loud(report, place),
                _gates(gates),
                *_warnings(report),
                *_not_evaluated(report),
                *primary.page_section(report),
                *(part for metric in others for part in metric.page_section(report)),
                *(_guard(report[name], BY_NAME[name]) for name in report["guards"]),
                _compared(report),
                _folded("Policy: every limit used", _policy(report)),
                _folded("Text and provenance", _provenance(report)),
                _folded("Digests", _digests(report, sha256)),
            ),
            _footer(sha256),
        )
    )
    return html_document(title, body)


def _subject_name(report: Mapping[str, Any]) -> str:
    """Return the name of a user's subject or of a served model; a suite's subject is named by its scenario."""
    subject, scenario = report["subject"], report["meta"]["scenario"]
    name: str = subject.get("name") or subject.get("served", {}).get("model") or scenario
    return name


def _header(report: Mapping[str, Any], title: str, place: CasePlace | None) -> Markup:
    verdict, reasons = report["assurance"]["verdict"], report["assurance"]["blocking_reasons"]
    run = report["meta"]["run"]
    if place is not None:
        words = place.words
    elif reasons:
        words = f"{counted(len(reasons), 'required gate')} failed"
    else:
        words = "every required gate passed"
    warnings = len(list(report_warnings(report)))
    kind = ("pass" if verdict == "PASS" else "fail") if place is None else place.kind
    return element(
        "header",
        *_links(place),
        element("p", "InvarLock evaluation report", class_="kind"),
        element("h1", breakable(title), f", run {run}" if run > 1 else ""),
        element(
            "p",
            pill(verdict, kind),
            words,
            f"; {counted(warnings, 'warning')}" if warnings else "",
            class_="lead",
        ),
        element("p", "; ".join(line for metric in METRICS for line in metric.summary(report)), class_="lead"),
        definition_list(
            {
                "subject": subject_text(report),
                "baseline": f"{report['meta']['model_id']}, pinned to {report['meta']['revision']}"
                if report["meta"]["revision"]
                else f"{report['meta']['model_id']}, not pinned",
            }
        ),
    )


def _links(place: CasePlace | None) -> Iterator[Markup]:
    """Yield the links to the overview of the pack and to the pages before and after."""
    if place is None:
        return
    named = {"Overview": place.overview, "Previous": place.previous, "Next": place.next}
    links = [link(path, name) for name, path in named.items() if path is not None]
    if links:
        yield element("nav", *links, aria_label="pages of the pack")


def _loud(report: Mapping[str, Any], place: CasePlace | None) -> Iterator[Markup]:
    """Yield notices that a reader must not miss: an unexpected result, and too few windows."""
    if place is not None and place.reasons:
        lines = [element("li", reason) for reason in place.reasons[:MAX_VIOLATIONS]]
        yield element("section", element("h2", "Not as expected"), element("ul", *lines), class_="box bad")
    for line in few_windows(report):
        yield element("p", line[0].upper(), line[1:], ".", class_="box")


def _folded(title: str, content: Markup) -> Markup:
    return element("details", element("summary", element("h2", title)), content)


def _warnings(report: Mapping[str, Any]) -> Iterator[Markup]:
    lines = list(report_warnings(report))
    if lines:
        yield element("h3", "Warnings")
        yield element("p", "Warnings do not affect the verdict.", class_="soft")
        yield element("ul", *(element("li", line) for line in lines[:MAX_WARNINGS]))


def _gates(gates: Sequence[Gate]) -> Markup:
    """Return the gates, worst first."""
    rows = [
        (_outcome(gate), element("code", breakable(gate.flag)), gate.measured, gate.limit)
        for gate in sorted(gates, key=lambda gate: (gate.holds, not gate.blocks))
    ]
    return element("section", element("h2", "Gates"), data_table(("result", "gate", "measured", "limit"), rows))


def _outcome(gate: Gate) -> Markup:
    if gate.holds:
        return pill("passed", "pass")
    return pill("failed", "fail") if gate.blocks else pill("warns", "warn")


def _compared(report: Mapping[str, Any]) -> Markup:
    meta, edit = report["meta"], report["edit"]
    return join(
        (
            element("h2", "Compared checkpoints"),
            definition_list(
                {
                    "model": meta["model_id"],
                    "revision": code(meta["revision"]),
                    "baseline": code(report["baseline_ref"]["digest"]),
                    "subject": _subject(report["subject"]),
                    "subject's name": report["subject"].get("name"),
                    "model signatures": listed(_signatures(report)) or None,
                    "edit": edit["name"] if edit["label"] == edit["name"] else f"{edit['name']}, {edit_text(edit)}",
                    "spec": code(edit["spec"]),
                    "parameters": compact(edit["parameters"]),
                    "declared": listed(edit.get("expected", ())) or None,
                    "scenario": f"{meta['scenario']}, run {meta['run']}",
                    "not scored": report["scoring"]["not_scored"],
                    **_modules(report),
                    **_storage(report),
                }
            ),
            *_equivalence(report),
        )
    )


def subject_text(report: Mapping[str, Any]) -> str:
    """Return the name of a user's subject, if the report has it, and its edit."""
    edit, name = report["edit"], report["subject"].get("name")
    text = edit["name"] if edit["label"] == edit["name"] else f"{edit['name']}, {edit_text(edit)}"
    return text if name is None else f"{name} ({text})"


def _subject(subject: Mapping[str, Any]) -> object:
    """Return the digest of a subject's files, or its server's statements and how the server was queried."""
    served = subject.get("served")
    if served is None:
        return code(subject["digest"])
    return (
        f"served: {stated_words(served)} ({NOTHING_PROVES}); requests: {served['dialect']}, the prompt as "
        f"{served['prompt'].replace('_', ' ')}; {served['asked_again']['windows']} windows were asked again and differ "
        f"by at most {served['asked_again']['largest_difference']:.3g} nats a token; its files were not seen, so it "
        "has no digest and its configuration is not known"
    )


def _not_evaluated(report: Mapping[str, Any]) -> Iterator[Markup]:
    """Yield the guards that did not judge the subject, with the reason."""
    names = [name for name in BY_NAME if name not in report["guards"]]
    if names:
        yield element("h2", "Guards that were not evaluated")
        yield definition_list({name: report[name]["reason"] for name in names})


def _equivalence(report: Mapping[str, Any]) -> Iterator[Markup]:
    """Yield a line on the differences removed before the weights were compared, and a line for each not removed."""
    removed = [
        f"{row['kind'].replace('_', ' ')} ({counted(len(row['modules']), 'tensor')}, largest "
        f"{number_text(row['largest'])})"
        for row in report.get("equivalence", ())
    ]
    if removed:
        yield element(
            "p", "Removed before comparing weights, since the function is the same: ", "; ".join(removed), "."
        )
    for row in report.get("equivalence_not_used", ()):
        yield element("p", f"Not removed: {row['kind'].replace('_', ' ')}, as {row['reason']}.", class_="soft")


def _guard(block: Mapping[str, Any], guard: Guard) -> Markup:
    status = block["status"]
    kind = status if status in ("pass", "warn", "fail", "error") else "note"
    heading = element("h2", f"Guard {guard.name} ", pill(status.replace("_", " "), kind))
    return join((heading, *guard.page_section(block), *_violations(block["violations"])))


def _violations(violations: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    if not violations:
        return
    rows = [
        (
            pill(row["severity"], {"warn": "warn"}.get(row["severity"], "fail")),
            element("code", _where(row)),
            row["reason"],
        )
        for row in violations[:MAX_VIOLATIONS]
    ]
    yield element("h3", "Violations")
    yield data_table(("severity", "where", "what"), rows)
    if len(violations) > MAX_VIOLATIONS:
        yield element("p", f"and {len(violations) - MAX_VIOLATIONS} more in the report", class_="soft")


def _modules(report: Mapping[str, Any]) -> dict[str, object]:
    """Return how the model's modules were identified if no table lists them, and what guards do not measure."""
    raw = report["invariants"].get("raw")
    if raw is None or raw["subject"]["modules_known_by"] == "table":
        return {}
    others = [row for row in raw["subject"]["tensors"].values() if row["family"] == "other" and len(row["shape"]) > 1]
    return {
        "modules known by": f"their names; no table has model_type {raw['subject']['config']['model_type']}",
        "not measured": f"{counted(len(others), 'tensor')} of other parts, such as images or sound: only that they are "
        "there, finite and of the baseline's shape"
        if others
        else None,
    }


def _storage(report: Mapping[str, Any]) -> dict[str, object]:
    """Return how a packed subject is stored and was scored; empty for a dense subject."""
    raw = report["invariants"].get("raw")
    quantised = None if raw is None else raw["subject"]["storage"]["quantisation"]
    if quantised is None:
        return {}
    own, base = (raw[side]["storage"] for side in ("subject", "baseline"))
    share = own["stored_bytes"] / max(base["stored_bytes"], 1)
    return {
        "scored as": report["scoring"]["scored_as"]["subject"],
        "quantised by": quantised["tool"],
        "method": quantised["method"],
        "bits": None if quantised["bits"] is None else plain_text(quantised["bits"]),
        "activation bits": None if quantised["activation_bits"] is None else plain_text(quantised["activation_bits"]),
        "group size": quantised["group_size"] or "a whole row or tensor"
        if quantised["group_size"] is not None
        else None,
        "zero points": {True: "none", False: "yes"}.get(quantised["symmetric"]),
        "not quantised": listed(quantised["ignored_modules"][:MAX_VIOLATIONS]) or None,
        "calibrated on": quantised["calibration"],
        "size": f"{number_text(own['bits_per_weight'])} bits per weight, {bytes_text(own['stored_bytes'])}, "
        f"{share_text(share)} of the baseline",
    }


def _where(violation: Mapping[str, Any]) -> object:
    """Return the location of a violation, without repeating the whole model."""
    where = violation.get("tensor", violation.get("module", ""))
    return "" if where in ("*", violation["reason"]) else where


def _policy(report: Mapping[str, Any]) -> Markup:
    provenance = report["policy_provenance"]
    preset = provenance["preset_sha256"]
    return join(
        (
            definition_list(
                {
                    "tier": provenance["tier"],
                    "profile": report["context"]["profile"],
                    "preset": "none" if preset is None else code(preset),
                    "overrides": compact(provenance["overrides"]) if provenance["overrides"] else "none",
                }
            ),
            _every_limit(json.dumps(report["resolved_policy"], sort_keys=True)),
        )
    )


@lru_cache(KEPT_POLICIES)
def _every_limit(policy: str) -> Markup:
    """Return the limits of a policy given as JSON; cached, because the cases of a run share policies."""
    limits = dict(_limits(json.loads(policy)))
    shown = dict(islice(limits.items(), MAX_LIMITS))
    more = f"and {len(limits) - MAX_LIMITS} more in the report" if len(limits) > MAX_LIMITS else ""
    return join((element("div", definition_list(shown), class_="columns"), element("p", more, class_="soft")))


def _limits(policy: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in sorted(policy.items()):
        if key.endswith("_by_module"):
            # a preset has one limit per module, too many to list
            least, most = min(value.values()), max(value.values())
            yield f"{prefix}{key}", f"{number_text(least)} to {number_text(most)} for {len(value)} modules"
        elif isinstance(value, Mapping):
            yield from _limits(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", plain_text(value)


def _provenance(report: Mapping[str, Any]) -> Markup:
    meta, context, data = report["meta"], report["context"], report["dataset"]
    windows, seeds = data["windows"], meta["seeds"]
    stages = sorted(report["telemetry"].items())
    seconds = [(name.removesuffix("_seconds"), value) for name, value in stages if name.endswith("_seconds")]
    return join(
        (
            definition_list(
                {
                    "text": f"{'; '.join(_texts(data))}, "
                    f"{windows['stats']['coverage']['tokens']} tokens"
                    + (" scored" if report["scoring"]["not_scored"] is None else ", scored on the baseline alone"),
                    "seeds": f"windows {seeds['windows']}, bootstrap {seeds['bootstrap']}",
                    "run": code(report["run_id"]),
                    "suite": context["suite"],
                    "determinism": context["determinism"],
                    "executed": "in a container" if context["execution_mode"] == "container" else "on the host",
                    "device": f"{meta['device']}, {meta['dtype']}, attention {meta['attention']}",
                    "versions": listed(f"{name} {version}" for name, version in sorted(meta["versions"].items())),
                    "seconds": listed(f"{name} {number_text(value)}" for name, value in seconds),
                }
            ),
        )
    )


def _texts(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of a report and its windows, or those of each slice."""
    for text in data.get("slices", [data]):
        windows = text["windows"]
        words = f"{windows['preview']} preview and {windows['final']} final windows of {text['seq_len']} tokens"
        name = f"slice {text['name']}, " if "name" in text else ""
        yield f"{name}{text['provider']}: {words}"


def _signatures(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the signer of each model signature that was verified."""
    for side, block in (("baseline", report["baseline_ref"]), ("subject", report["subject"])):
        if found := block.get("model_signature"):
            yield f"{side} signed by {found['signer']} ({found['method']}), {found['digest']}"


def _digests(report: Mapping[str, Any], sha256: str) -> Markup:
    reference, contracts = report["baseline_ref"], {}
    for name in report["guards"]:
        contracts[f"measurement contract, {name}"] = report[name]["measurement_contract_hash"]
    digests = {
        "evaluation.report.json": f"sha256:{sha256}",
        **({} if report["subject"]["digest"] is None else {"subject": report["subject"]["digest"]}),
        "baseline": reference["digest"],
        "baseline's report": reference["report_sha256"],
        "tokenizer": reference["tokenizer_sha256"],
        "text": report["dataset"]["source_sha256"],
        "policy": report["policy_provenance"]["policy_digest"],
        **contracts,
    }
    rows = [(name, element("code", digest)) for name, digest in digests.items()]
    return data_table(("of", "sha256"), rows)


def _footer(sha256: str) -> Markup:
    return element(
        "footer",
        element(
            "p",
            "This page was generated only from the evaluation.report.json in the same folder with the sha256 ",
            element("code", sha256),
            ". ",
            element("code", "python -m invarlock.packer verify"),
            " derives the report from its measurements, renders this page again and compares both.",
        ),
    )
