"""From measurements to the documents that leave a process: a baseline's own report, and a subject's.

The suite's cases and ``invarlock evaluate`` write the same ones.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from invarlock.evaluation.activations import ACTIVATION_CONTRACTS
from invarlock.evaluation.canonical_form import CanonicalForm
from invarlock.evaluation.checkpoint_facts import WEIGHT_CONTRACTS, CheckpointFacts
from invarlock.evaluation.comparison import Baseline, Measured, Reference, WindowPlan, window_columns
from invarlock.evaluation.models import NATIVE, Placement
from invarlock.evaluation.scoring import Scores
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.windows import Draw, Tokens
from invarlock.guards import GUARD_NAMES
from invarlock.jsonio import check_schema
from invarlock.reports.derivation import SCHEMA_VERSION, baseline_run_id, compose
from invarlock.reports.presets import Preset
from invarlock.reports.probes import PROBED, compose_probe, file_name
from invarlock.reports.sidecars import BASELINE_REUSED, RENDER_DEFERRED, RuntimeImage

VERSIONED = ("invarlock", "numpy", "safetensors", "torch", "transformers")


@dataclass(frozen=True)
class Setup:
    """What every document of a model says: which model, how it was run, on which text, judged by which limits."""

    model_id: str
    revision: str | None
    context: Mapping[str, str]
    placement: Placement
    plan: WindowPlan
    text: SourceText
    overrides: Mapping[str, Any] = field(default_factory=dict)
    preset: Preset | None = None
    guards: tuple[str, ...] = GUARD_NAMES
    store_tokens: bool = False
    image: RuntimeImage | None = None
    allow_network: bool = False
    allow_remote_code: bool = False
    reuses_baseline: bool = False
    defers_rendering: bool = False

    def seeds(self, run: int) -> dict[str, int]:
        """Return the seeds of a run: of its windows, and of its bootstrap."""
        return {"windows": self.plan.window_seed(run), "bootstrap": self.plan.window_seed(run)}

    def meta(self) -> dict[str, Any]:
        return {
            "model_id": self.model_id,
            "revision": self.revision,
            "device": self.placement.device,
            "dtype": self.placement.dtype_name,
            "attention": self.placement.attention,
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}},
        }

    def provenance(self) -> dict[str, Any]:
        """Return what the policy of a report follows from: the tier, the model's preset, overrides."""
        return {
            "tier": self.context["tier"],
            "preset_sha256": None if self.preset is None else self.preset.sha256,
            "preset_limits": {} if self.preset is None else dict(self.preset.limits),
            "overrides": dict(self.overrides),
        }

    def dataset(self, tokenizer_sha256: str, prefix_token_ids: Sequence[int]) -> dict[str, Any]:
        """Return what was scored: the text, and windows of ``seq_len`` tokens that begin with a prefix."""
        return {
            "provider": self.text.provider,
            "source_sha256": self.text.sha256,
            "tokenizer_sha256": tokenizer_sha256,
            "seq_len": self.plan.seq_len,
            "prefix_token_ids": list(prefix_token_ids),
            "windows": {"preview": self.plan.preview, "final": self.plan.final},
        }


@dataclass(frozen=True)
class Edited:
    """What a subject is: for its report and its ``edit_metadata.json``.

    ``label_source`` says what the label comes from where it does not follow from the spec.
    """

    name: str
    label: str
    spec: str
    parameters: Mapping[str, Any]
    label_source: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the ``edit`` of a report."""
        named = {"name": self.name, "label": self.label, "spec": self.spec, "parameters": dict(self.parameters)}
        return named if self.label_source is None else {**named, "label_source": self.label_source}


def baseline_document(setup: Setup, baseline: Baseline) -> dict[str, Any]:
    """Return the report of a baseline: its raw measurements, and no times: the same measurements are the same bytes.

    Raises:
        DocumentError: when it would not hold to its schema.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "meta": setup.meta(),
        "context": dict(setup.context),
        "baseline": {"digest": baseline.digest, "tokenizer_sha256": baseline.tokenizer_sha256},
        "dataset": setup.dataset(baseline.tokenizer_sha256, baseline.prefix_token_ids),
        "draws": [
            {
                "run": run,
                "seeds": setup.seeds(run),
                **window_columns(scored.draw, scored.preview, scored.final, "logloss"),
                **asdict(scored.activations),
                **({} if scored.probe is None else {"probe": asdict(scored.probe)}),
            }
            for run, scored in baseline.draws.items()
        ],
        **{
            guard: {"raw": raw, "measurement_contract": dict(WEIGHT_CONTRACTS[guard])}
            for guard, raw in baseline.facts.by_guard.items()
        },
        **{guard: {"measurement_contract": dict(contract)} for guard, contract in ACTIVATION_CONTRACTS.items()},
    }
    document["run_id"] = baseline_run_id(document)
    check_schema(document, "baseline_report", where="baseline report")
    return document


def reference(baseline: Mapping[str, Any], folder: Path, run: int, *, probe: bool) -> Reference:
    """Return what a subject is held against, from its baseline's report and its checkpoint."""
    draw = _draw(baseline, run)
    probe_outputs = draw["probe"]["variance"] if probe else None
    return Reference(folder, weight_facts(baseline), draw["variance"], probe_outputs, baseline["baseline"]["digest"])


def weight_facts(baseline: Mapping[str, Any]) -> CheckpointFacts:
    """Return what was measured of a baseline's weights, from its report."""
    return CheckpointFacts.of({guard: baseline[guard]["raw"] for guard in WEIGHT_CONTRACTS})


def report_document(
    setup: Setup,
    baseline: Mapping[str, Any],
    baseline_sha256: str,
    scenario: str,
    run: int,
    edited: Edited,
    draw: Draw,
    measured: Measured,
    make_seconds: float | None = None,
) -> dict[str, Any]:
    """Return the report of a subject, all that follows from its measurements included.

    Args:
        setup: of the model.
        baseline: the baseline's own report.
        baseline_sha256: ``sha256:<hex>`` of that report's bytes.
        scenario: what the case is called.
        run: its number.
        edited: what the subject is.
        draw: the windows.
        measured: of the subject.
        make_seconds: how long it took to make the subject, None when it was there.

    Raises:
        DocumentError: when it would not hold to its schema.
    """
    own, base = window_columns(draw, measured.preview, measured.final, "logloss"), _draw(baseline, run)
    for part in ("preview", "final"):
        own[part]["baseline_logloss"] = base[part]["logloss"]
        if setup.store_tokens:
            tokens: Tokens = getattr(draw, part).tokens
            own[part]["token_ids"] = [" ".join(map(str, window)) for window in tokens.tolist()]
    seconds = measured.seconds if make_seconds is None else {"make_subject": make_seconds, **measured.seconds}
    weights = measured.facts.against({guard: baseline[guard]["raw"] for guard in WEIGHT_CONTRACTS})
    outputs = measured.activations.by_guard(_losses(measured.scaled))
    raws = {**weights, **{guard: {"baseline": base[guard], "subject": own} for guard, own in outputs.items()}}
    contracts = {**WEIGHT_CONTRACTS, **ACTIVATION_CONTRACTS}
    raw = {
        "schema_version": SCHEMA_VERSION,
        "meta": {**setup.meta(), "scenario": scenario, "run": run, "seeds": setup.seeds(run)},
        "context": dict(setup.context),
        "edit": edited.document(),
        "subject": {"digest": measured.digest},
        "baseline_ref": {**baseline["baseline"], "report_sha256": baseline_sha256},
        "dataset": setup.dataset(baseline["baseline"]["tokenizer_sha256"], baseline["dataset"]["prefix_token_ids"]),
        "evaluation_windows": own,
        "scoring": {
            "not_scored": measured.not_scored,
            "batch_size": None if measured.final is None else measured.final.batch_size,
            "scored_as": {"baseline": NATIVE, "subject": measured.scored_as},
        },
        **{guard: {"raw": raws[guard], "measurement_contract": dict(contracts[guard])} for guard in setup.guards},
        **equivalence(measured.form),
        "guards": list(setup.guards),
        "policy_provenance": setup.provenance(),
        "telemetry": {
            **telemetry(seconds),
            BASELINE_REUSED: int(setup.reuses_baseline),
            RENDER_DEFERRED: int(setup.defers_rendering),
        },
    }
    report = compose(raw)
    check_schema(report, "evaluation_report", where="report")
    return report


def probe_document(
    probe: str, baseline: Mapping[str, Any], measured: Measured, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the document of a probe beside a report.

    Raises:
        DocumentError: when it would not hold to its schema.
    """
    guard, _ = PROBED[probe]
    subject = measured.probe.by_guard(_losses(measured.probe_scaled))[guard.name]
    contract = ACTIVATION_CONTRACTS[guard.name]
    base = _draw(baseline, report["meta"]["run"])["probe"][guard.name]
    document = compose_probe(probe, {"baseline": base, "subject": subject}, contract, report)
    check_schema(document, probe, where=file_name(probe))
    return document


def equivalence(form: CanonicalForm | None) -> dict[str, Any]:
    """Return what a report says of differences that leave the function as it is; nothing where there are none."""
    found = {} if form is None else {"equivalence": form.removed, "equivalence_not_used": form.skipped}
    return {key: rows for key, rows in found.items() if rows}


def _draw(baseline: Mapping[str, Any], run: int) -> Mapping[str, Any]:
    draw: Mapping[str, Any] = next(row for row in baseline["draws"] if row["run"] == run)
    return draw


def _losses(scores: Scores | None) -> list[float | None] | None:
    return None if scores is None else list(scores.losses)


def telemetry(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return seconds a stage as documents say them."""
    return {f"{stage}_seconds": round(value, 6) for stage, value in seconds.items()}
