"""One evaluation as a frozen value, used from preparation through measuring to writing the report.

Example::

    request = EvaluationRequest(setup, baseline, "prune_clean", 1, draw, placement)     # prepared
    measured = compare(subject, request.comparison())                                   # measured
    report = report_document(request, edited, measured)                                 # ready to be written
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from invarlock.documents.reports import BaselineReport, EditBlock, MeasuredMeta, PolicyOrigin, ScoredText
from invarlock.evaluation.checkpoint_facts import WEIGHT_CONTRACTS, CheckpointFacts
from invarlock.evaluation.kept_tokens import kept_file, kept_folder
from invarlock.evaluation.measurements import Comparison, Reference, WindowPlan
from invarlock.evaluation.models import Placement
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.windows import Draw
from invarlock.guards import GUARD_NAMES
from invarlock.reports.policy import resolve_policy
from invarlock.reports.presets import Preset
from invarlock.reports.sidecars import RuntimeImage

VERSIONED = ("invarlock", "numpy", "safetensors", "torch", "transformers")


@dataclass(frozen=True)
class Setup:
    """What all documents of a model share: the model, how it was run, the text, and the limits."""

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
        """Return the seeds of a run: for its windows and for its bootstrap."""
        return {"windows": self.plan.window_seed(run), "bootstrap": self.plan.window_seed(run)}

    def meta(self) -> MeasuredMeta:
        """Return the block ``meta`` of a report: model, device, dtype of weights, attention and windows."""
        return {
            "model_id": self.model_id,
            "revision": self.revision,
            "device": self.placement.device,
            "dtype": self.placement.dtype_name,
            "attention": self.placement.attention,
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}},
        }

    def provenance(self) -> PolicyOrigin:
        """Return the origin of a report's policy: the tier, the model's preset, and overrides."""
        return {
            "tier": self.context["tier"],
            "preset_sha256": None if self.preset is None else self.preset.sha256,
            "preset_limits": {} if self.preset is None else dict(self.preset.limits),
            "overrides": dict(self.overrides),
        }

    def dataset(self, tokenizer_sha256: str, prefix_token_ids: Sequence[int]) -> ScoredText:
        """Return the scored text, and its windows of ``seq_len`` tokens that begin with the prefix."""
        slices = [self._slice(name, text) for name, text in self.text.slices.items()]
        every = [row["windows"] for row in slices] or [{"preview": self.plan.preview, "final": self.plan.final}]
        text = {
            "provider": self.text.provider,
            "source_sha256": self.text.sha256,
            "tokenizer_sha256": tokenizer_sha256,
            "seq_len": self.plan.seq_len,
            "prefix_token_ids": list(prefix_token_ids),
            "windows": {part: sum(windows[part] for windows in every) for part in ("preview", "final")},
            **({"slices": slices} if slices else {}),
        }
        return cast("ScoredText", text)

    def _slice(self, name: str, text: SourceText) -> dict[str, Any]:
        counts = self.plan.counts(name)
        return {
            "name": name,
            "provider": text.provider,
            "source_sha256": text.sha256,
            "seq_len": counts.seq_len,
            "windows": {"preview": counts.preview, "final": counts.final},
        }


@dataclass(frozen=True)
class EditDescription:
    """The edit of a subject, as its report and its ``edit_metadata.json`` describe it.

    ``label_source`` says where the label comes from if it does not follow from the spec. ``expected`` has the declared
    structural changes, such as ``vocabulary+8``. ``subject`` is the name of a user's own subject.
    """

    name: str
    label: str
    spec: str
    parameters: Mapping[str, Any]
    label_source: str | None = None
    expected: tuple[str, ...] = ()
    subject: str | None = None

    def document(self) -> EditBlock:
        """Return the report's ``edit`` block."""
        block = {
            "name": self.name,
            "label": self.label,
            "spec": self.spec,
            "parameters": dict(self.parameters),
            **({} if self.label_source is None else {"label_source": self.label_source}),
            **({} if not self.expected else {"expected": list(self.expected)}),
        }
        return cast("EditBlock", block)


@dataclass(frozen=True)
class StoredBaseline:
    """A model's snapshot, its own report, and ``sha256:<hex>`` of that report's bytes.

    ``kept`` is the folder of its most probable tokens; None if they are next to the snapshot.
    """

    snapshot: Path
    document: BaselineReport
    report_sha256: str
    kept: Path | None = None


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation of one subject.

    Attributes:
        setup: what all documents of the model share.
        baseline: the baseline that the subject is compared with.
        scenario: the name of the case.
        run: the number of the run.
        draw: the windows of that run.
        placement: the device and settings with which the subject is scored.
        probe: whether activations are also measured over the probe's windows.
    """

    setup: Setup
    baseline: StoredBaseline
    scenario: str
    run: int
    draw: Draw
    placement: Placement
    probe: bool = False

    def comparison(self) -> Comparison:
        """Return everything needed to measure the subject."""
        context, preset = self.setup.context, self.setup.preset
        policy = resolve_policy(
            context["tier"], context["profile"], self.setup.overrides, None if preset is None else preset.limits
        )
        against = reference(self.baseline, self.run, probe=self.probe)
        return Comparison(against, self.draw, self.setup.plan, self.placement, policy["variance"])


def reference(baseline: StoredBaseline, run: int, *, probe: bool) -> Reference:
    """Return the reference for a subject, from its baseline's report and checkpoint."""
    document = baseline.document
    draw = draw_of(document, run)
    return Reference(
        baseline.snapshot,
        kept_file(baseline.kept or kept_folder(baseline.snapshot), run),
        draw["fidelity"]["vocabulary"],
        weight_facts(document),
        draw["variance"],
        draw["probe"]["variance"] if probe else None,
        document["baseline"]["digest"],
    )


def weight_facts(baseline: Mapping[str, Any]) -> CheckpointFacts:
    """Return the measurements of a baseline's weights from its report."""
    return CheckpointFacts.of({guard: baseline[guard]["raw"] for guard in WEIGHT_CONTRACTS})


def draw_of(baseline: Mapping[str, Any], run: int) -> Mapping[str, Any]:
    """Return the row of a baseline's report that describes the draw of windows of one run."""
    draw: Mapping[str, Any] = next(row for row in baseline["draws"] if row["run"] == run)
    return draw
