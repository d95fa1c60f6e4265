"""The inputs and results of measuring: which models are compared, and the measurements of each side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invarlock.catalog.models import WindowCounts
from invarlock.evaluation.activations import NOT_MEASURED, ActivationFacts
from invarlock.evaluation.canonical_form import CanonicalForm
from invarlock.evaluation.checkpoint_facts import CheckpointFacts
from invarlock.evaluation.models import NATIVE, Placement
from invarlock.evaluation.plausibility import MOST_OF_CHANCE
from invarlock.evaluation.scoring import Scores
from invarlock.evaluation.windows import Draw
from invarlock.judgement.expectations import Expectation

# The number of most probable tokens kept at a position: they have 99.9 % of the probability and take 4 KB.
TOP_K = 512


@dataclass(frozen=True)
class WindowPlan:
    """How much text is scored: ``preview`` and ``final`` windows of ``seq_len`` tokens; run n draws with seed + n.

    ``slices`` has the window counts of slices that differ from these, by name. A baseline is refused if its perplexity
    is above ``most_of_chance`` times its vocabulary size. At each position of the final windows, the ``top_k`` most
    probable tokens are kept for the comparison with subjects.
    """

    seq_len: int
    preview: int
    final: int
    seed: int
    batch_size: int
    most_of_chance: float = MOST_OF_CHANCE
    top_k: int = TOP_K
    slices: Mapping[str, WindowCounts] = field(default_factory=dict)

    def counts(self, name: str) -> WindowCounts:
        """Return the window counts of a slice."""
        return self.slices.get(name, WindowCounts(self.seq_len, self.preview, self.final))

    def window_seed(self, run: int) -> int:
        """Return the seed of a run's draw of windows."""
        return self.seed + run


@dataclass(frozen=True)
class ScoredDraw:
    """A draw of windows, the losses of its preview and final windows, and the facts about the kept tokens."""

    run: int
    draw: Draw
    preview: Scores
    final: Scores
    activations: ActivationFacts
    probe: ActivationFacts | None
    fidelity: Mapping[str, Any]


@dataclass(frozen=True)
class Reference:
    """What a subject is compared with: the baseline's checkpoint, the facts of its weights, and its outputs on a draw.

    ``kept`` is the file of its most probable tokens on that draw, and ``vocabulary`` the size of its vocabulary;
    ``digest`` is the digest of the checkpoint's files, or None if it is not known.
    """

    folder: Path
    kept: Path
    vocabulary: int
    facts: CheckpointFacts
    outputs: Mapping[str, Any]
    probe_outputs: Mapping[str, Any] | None
    digest: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything needed to measure a subject: its baseline, the windows, the placement, and the limits of scales.

    ``variance_policy`` has the tier's ``variance`` limits, which decide the proposed scales of FFN outputs.
    ``expected`` has the declared changes of a subject's structure.
    """

    baseline: Reference
    draw: Draw
    plan: WindowPlan
    placement: Placement
    variance_policy: Mapping[str, Any]
    expected: tuple[Expectation, ...] = ()


@dataclass(frozen=True)
class KnownBaseline:
    """Earlier measurements of a baseline's files: their digest, the tokenizer's digest, and the weight facts."""

    digest: str
    tokenizer_sha256: str
    facts: CheckpointFacts

    @property
    def prefix_token_ids(self) -> list[int]:
        """The token ids that the tokenizer puts at the start of every text."""
        return list(self.facts.invariants["prefix_token_ids"])


@dataclass(frozen=True)
class Baseline:
    """A baseline and all of its measurements: ``draws`` by run, ``seconds`` by stage."""

    digest: str
    tokenizer_sha256: str
    facts: CheckpointFacts
    draws: dict[int, ScoredDraw]
    seconds: dict[str, float]

    @property
    def prefix_token_ids(self) -> list[int]:
        """The token ids at the start of every window."""
        return list(self.facts.invariants["prefix_token_ids"])


@dataclass(frozen=True)
class SubjectMeasurement:
    """The measurements of a subject; ``not_scored`` is the reason if there are no scores.

    ``form`` describes the differences removed before weights were compared; None if they were compared as stored.
    ``overflow`` is the module of a subject stored in float16 with the largest output, and that, if it does not fit.
    """

    digest: str
    facts: CheckpointFacts
    preview: Scores | None
    final: Scores | None
    not_scored: str | None
    seconds: dict[str, float]
    activations: ActivationFacts = NOT_MEASURED
    scaled: Scores | None = None
    probe: ActivationFacts = NOT_MEASURED
    probe_scaled: Scores | None = None
    scored_as: str = NATIVE
    form: CanonicalForm | None = None
    fidelity: Mapping[str, Any] | None = None
    overflow: tuple[str, float] | None = None
