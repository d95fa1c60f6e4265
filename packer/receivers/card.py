"""A verified subject as a section of a model card: its changes from the baseline, the checks, and how to verify them.

Example::

    text = make_card(read_subject(Path("PACK"), SubjectOptions()), Presentation(), with_metadata=True)

Names from the pack become code spans and quoted strings, so they cannot end a table, make a link or add metadata.

Source: the model card of the Hugging Face hub (https://github.com/huggingface/hub-docs/blob/main/modelcard.md).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from invarlock.packer.receivers.measures import confidence_of, interval_of, task_rows, text_measures
from invarlock.packer.receivers.presentation import Presentation, hub_baseline, model_name, storage_of
from invarlock.packer.receivers.subjects import PackSubject, SubjectRun

from invarlock import __version__
from invarlock.documents import JsonObject
from invarlock.judgement.slices import limits_of
from invarlock.metrics.fidelity import CHANGE
from invarlock.pages.numbers import NOTHING, bytes_text, change_text, share_text
from invarlock.reports.derivation import SERVED_REASON
from invarlock.reports.markdown import code_block, code_span
from invarlock.reports.page_facts import report_warnings
from invarlock.reports.preset_files import render_yaml
from invarlock.reports.served import NOTHING_PROVES, is_served, stated_words
from invarlock.verdict.words import seen_words, subject_words

TASK = {"type": "text-generation", "name": "Text generation compared with the baseline"}
# The measures in the metadata, with their display names.
METRICS = {
    "perplexity": "Perplexity",
    "perplexity_ratio": "Perplexity relative to the baseline",
    "kl_divergence": "KL divergence from the baseline, nats a token",
    "same_top_token": "Share of the same most probable tokens",
}

Report = Mapping[str, Any]
Cells = tuple[str, ...]


def make_card(subject: PackSubject, given: Presentation, *, with_metadata: bool) -> str:
    """Return the section as Markdown; ``with_metadata`` puts the YAML block of a model card in front of it."""
    text = "\n".join(_section(subject, given)) + "\n"
    return f"---\n{render_yaml(_metadata(subject, given)).decode()}---\n\n{text}" if with_metadata else text


def _metadata(subject: PackSubject, given: Presentation) -> JsonObject:
    report = subject.report
    hub, storage = hub_baseline(report), storage_of(report, "subject")
    is_quantised = storage is not None and storage["quantisation"] is not None
    source = {"source": {"name": "InvarLock evidence pack", "url": given.pack_url}} if given.pack_url else {}
    results = [{**row, **source} for run in subject.runs for row in _results(run)]
    return {
        **({} if hub is None else {"base_model": hub}),
        **({"base_model_relation": "quantized"} if hub is not None and is_quantised else {}),
        **({"model-index": [{"name": model_name(subject, given), "results": results}]} if results else {}),
    }


def _results(run: SubjectRun) -> Iterator[JsonObject]:
    """Yield the results of a run: on the whole text, on each slice, and on each task."""
    report = run.report
    dataset = report["dataset"]
    own = {row["name"]: row for row in dataset.get("slices", ())}
    by_part: dict[str | None, list[JsonObject]] = {}
    for measure in text_measures(run):
        if measure.name in METRICS:
            row: JsonObject = {"type": measure.name, "name": METRICS[measure.name], "value": measure.value}
            if measure.interval is not None:
                low, high = measure.interval
                row["args"] = {"confidence": confidence_of(report), "low": low, "high": high}
            by_part.setdefault(measure.part, []).append(row)
    for part, metrics in by_part.items():
        text: Report = dataset if part is None else own[part]
        yield {
            "task": TASK,
            "dataset": {
                "type": text["provider"],
                "name": text["provider"] if part is None else f"{part}: {text['provider']}",
                "revision": text["source_sha256"],
                "args": {
                    "windows": text["windows"]["final"],
                    "seq_len": text["seq_len"],
                    "run": run.record["run_num"],
                },
            },
            "metrics": metrics,
        }
    for scores in task_rows(report):
        yield {
            "task": TASK,
            "dataset": {"type": scores["task"], "name": scores["task"], "args": {"samples": scores["samples"]}},
            "metrics": [{"type": scores["metric"], "name": scores["metric"], "value": scores["subject_mean"]}],
        }


def _section(subject: PackSubject, given: Presentation) -> Iterator[str]:
    report = subject.report
    own = report["subject"]["digest"] or report["subject"]["served"]["model"]
    ids = [code_span(value) for value in (own, report["meta"]["model_id"])]
    yield "## Comparison with the baseline"
    yield ""
    yield (
        f"InvarLock compared this model ({ids[0]}) with its baseline {ids[1]} "
        f"({code_span(report['baseline_ref']['digest'])}) on the same text. {_verdict(subject)}"
    )
    yield from _failed(subject)
    yield ""
    heads = ("measure", "value", f"{share_text(confidence_of(report))} interval", "limit")
    yield from _table(heads, [row for run in subject.runs for row in _rows(run, several=len(subject.runs) > 1)])
    yield from _sizes(report)
    yield from _checked(subject)
    yield from _verification(subject, given)


def _verdict(subject: PackSubject) -> str:
    tier = code_span(subject.report["context"]["tier"])
    if not subject.passes:
        return f"**FAIL**: these gates of the tier {tier} do not hold:"
    return f"**PASS**: every gate of the tier {tier} holds."


def _failed(subject: PackSubject) -> Iterator[str]:
    reasons = [line for run in subject.runs for line in run.report["assurance"]["blocking_reasons"]]
    if reasons:
        yield ""
        yield from (f"- {code_span(reason)}" for reason in reasons)


def _rows(run: SubjectRun, *, several: bool) -> Iterator[Cells]:
    """Yield the rows of the table of measures: for the whole text, for each slice, and for each task."""
    report = run.report
    suffix = f", run {run.record['run_num']}" if several else ""
    blocks = report["primary_metric"], report["fidelity"]
    slices = dict.fromkeys(name for block in blocks for name in block.get("slices", {}))
    for part in (None, *slices):
        own = suffix if part is None else f", text {code_span(part)}{suffix}"
        ratio, fidelity = (block if part is None else block.get("slices", {}).get(part, {}) for block in blocks)
        policies = (report["resolved_policy"][name] for name in ("primary_metric", "fidelity"))
        limits = [policy if part is None else limits_of(policy, part) for policy in policies]
        yield from ((f"{label}{own}", *cells) for label, *cells in _text_rows(ratio, fidelity, *limits))
    for row in task_rows(report):
        ends = interval_of(row["ci"])
        difference = NOTHING if ends is None else f"difference {ends[0]:+.4g} to {ends[1]:+.4g}"
        limit = f"{-report['resolved_policy']['tasks']['maximum_regression']:+.4g}"
        label = f"{_cell(row['task'])}, {_cell(row['metric'])}{suffix}"
        yield label, f"{row['baseline_mean']:.4g} → {row['subject_mean']:.4g}", difference, limit


def _text_rows(ratio: Report, fidelity: Report, of_ratio: Report, of_fidelity: Report) -> Iterator[Cells]:
    if ratio.get("ratio_vs_baseline") is None:
        yield "perplexity", f"not measured: {_cell(ratio.get('reason') or 'unknown')}", NOTHING, NOTHING
    else:
        change = f"{change_text(ratio['ratio_vs_baseline'])} ({ratio['baseline_final']:.4g} → {ratio['final']:.4g})"
        yield "perplexity", change, _between(ratio["ci"], change_text), change_text(of_ratio["ratio_limit"])
    if fidelity.get("kl_mean") is None:
        yield "KL divergence", f"not measured: {_cell(fidelity.get('reason') or 'unknown')}", NOTHING, NOTHING
        return
    is_limited = of_fidelity["intent"] != CHANGE
    yield (
        "KL divergence from the baseline, nats a token",
        _number(fidelity["kl_mean"]),
        _between(fidelity["kl_mean_ci"], _number),
        _number(of_fidelity["kl_limit"]) if is_limited else NOTHING,
    )
    yield (
        "KL divergence that 99.9 % of the tokens are below",
        _number(fidelity["kl_p999"]),
        NOTHING,
        _number(of_fidelity["tail_limit"]) if is_limited else NOTHING,
    )
    yield (
        "same most probable token",
        share_text(fidelity["same_top_share"]),
        _between(fidelity["same_top_ci"], share_text),
        share_text(of_fidelity["same_top_limit"]) if is_limited else NOTHING,
    )
    yield (
        "another token where the baseline is confident",
        share_text(fidelity["confident_flip_share"]),
        _between(fidelity["confident_flip_ci"], share_text),
        NOTHING,
    )


def _sizes(report: Report) -> Iterator[str]:
    base, own = (storage_of(report, side) for side in ("baseline", "subject"))
    if base is None or own is None:
        return
    share = share_text(own["stored_bytes"] / max(base["stored_bytes"], 1))
    yield ""
    yield from _table(
        ("size", "baseline", "this model"),
        [
            ("weights", bytes_text(base["stored_bytes"]), f"{bytes_text(own['stored_bytes'])} ({share})"),
            ("bits per weight", f"{base['bits_per_weight']:.4g}", f"{own['bits_per_weight']:.4g}"),
            ("format", _cell(base["format"]), _cell(own["format"])),
            ("quantisation", _quantisation(base["quantisation"]), _quantisation(own["quantisation"])),
        ],
    )


def _quantisation(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return NOTHING
    words = [facts["method"]]
    words += [] if facts["bits"] is None else [f"{facts['bits']:g} bits"]
    words += [] if facts["group_size"] is None else [f"groups of {facts['group_size']}"]
    words += [] if facts["activation_bits"] is None else [f"activations in {facts['activation_bits']:g} bits"]
    words += [] if facts["tool"] is None else [f"by {facts['tool']}"]
    return _cell(", ".join(words))


def _checked(subject: PackSubject) -> Iterator[str]:
    report, manifest, verdict = subject.report, subject.pack.manifest, subject.pack.verdict
    dataset, counts, record = report["dataset"], verdict["counts"], subject.runs[0].record
    texts = "; ".join(
        f"{code_span(row['provider'])} ({code_span(row['source_sha256'])}), {row['windows']['final']} windows of "
        f"{row['seq_len']} tokens"
        for row in dataset.get("slices", [dataset])
    )
    guards = ", ".join(f"{name} {code_span(report[name]['status'])}" for name in report["guards"])
    signer = "**not signed: anybody could have made it**"
    if subject.signer is not None:
        signer = f"signed by {code_span(subject.signer)}"
    yield ""
    yield "### How it was checked"
    yield ""
    yield f"- Edit, as its maker states: {code_span(report['edit']['label'])}, {code_span(report['edit']['spec'])}."
    yield f"- Text: {texts}."
    if is_served(report):
        yield (
            f"- The model was judged behind a server: {code_span(stated_words(report['subject']['served']))}; "
            f"{NOTHING_PROVES}. Its files were not seen, so it has no digest."
        )
    yield f"- Guards: {guards or f'none, {SERVED_REASON}'}."
    yield (
        f"- In the run, {subject_words(record['strictness'])}; seen: {seen_words(record)}. Verdict of the run: "
        f"{verdict['verdict']}, {counts['records_passed']} of {counts['cases_total']} cases as expected, "
        f"{counts['error_injection_detected']} of {counts['error_injection_total']} deliberate faults detected."
    )
    yield (
        f"- Evidence pack {code_span(f'sha256:{subject.manifest_sha256}')} of "
        f"{code_span(manifest.get('generated_at', 'a time not stated'))}, {signer}."
    )
    for run in subject.runs:
        yield from (f"- Warning: {code_span(line)}." for line in report_warnings(run.report))
    yield "- This says nothing about other text, other tasks or safety."


def _verification(subject: PackSubject, given: Presentation) -> Iterator[str]:
    where = "" if given.pack_url is None else f", at <{given.pack_url}>"
    signer = "--allow-unsigned" if subject.signer is None else f"--strict --expected-fingerprint {subject.signer}"
    files = " ".join(map(shlex.quote, sorted(subject.files))) or "FILES"
    which = "" if subject.files else " on its weight, config and tokenizer files"
    commands = [
        f"sha256sum PACK/manifest.json   # {subject.manifest_sha256}",
        f"invarlock verify PACK {signer}",
        f"invarlock card PACK --case {shlex.quote(subject.name)}",
    ]
    yield ""
    yield "### How to verify"
    yield ""
    yield (
        f"`invarlock card` of InvarLock {__version__} wrote this section. Anyone who can edit this file can change it; "
        f"the evidence is the pack{where}. Verifying needs neither the model nor a network:"
    )
    yield ""
    yield from code_block(commands).rstrip("\n").split("\n")
    if is_served(subject.report):
        return
    yield ""
    yield (
        f"The measured files are those in this model's folder if this command, run there{which}, prints "
        f"{code_span(subject.report['subject']['digest'].removeprefix('sha256:'))}:"
    )
    yield ""
    yield from code_block([f"sha256sum {files} | LC_ALL=C sort | sha256sum"]).rstrip("\n").split("\n")


def _table(heads: Cells, rows: list[Cells]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _cell(value: str) -> str:
    """Return a text from the pack for a table cell; a bar would end the cell even in a code span."""
    return code_span(value.replace("|", "/"))


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _between(ends: Any, shown: Any) -> str:
    found = interval_of(ends)
    return NOTHING if found is None else f"{shown(found[0])} to {shown(found[1])}"
