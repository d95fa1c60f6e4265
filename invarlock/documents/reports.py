"""The documents of an evaluation: ``evaluation.report.json``, baseline reports, and the files that accompany a report.

The blocks of guards and metrics are described in the modules of the guards and metrics.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from invarlock.documents.json_object import JsonObject
from invarlock.documents.measurements import KeptTokens


class Seeds(TypedDict):
    """The seeds of a run: for the draw of its windows and for its bootstrap."""

    windows: int
    bootstrap: int


class MeasuredMeta(TypedDict):
    """The model, the device and the libraries of a measurement."""

    model_id: str
    revision: str | None
    device: str
    dtype: str
    attention: str
    versions: dict[str, str]


class ReportMeta(MeasuredMeta):
    """The meta block of a report: the measurement, and the case."""

    scenario: str
    run: int
    seeds: Seeds


class BaselineDigests(TypedDict):
    """The baseline checkpoint: ``sha256:<hex>`` of its weights, and of its tokenizer's files."""

    digest: str
    tokenizer_sha256: str


class ModelSignatureBlock(TypedDict):
    """The verified OpenSSF model signature of a checkpoint: the method, the signer, and the signed model digest."""

    method: str
    signer: str
    digest: str


class BaselineReference(BaselineDigests):
    """The baseline of a report, with ``sha256:<hex>`` of the baseline's own report."""

    report_sha256: str | None
    model_signature: NotRequired[ModelSignatureBlock]


class WindowCounts(TypedDict):
    """The numbers of windows."""

    preview: int
    final: int


class DrawnWindows(WindowCounts):
    """The numbers of windows, and the facts about the draw."""

    stats: JsonObject


class TextSlice(TypedDict):
    """One slice of a text that has several slices."""

    name: str
    provider: str
    source_sha256: str
    seq_len: int
    windows: WindowCounts


class SourceOfText(TypedDict):
    """The text; its windows have ``seq_len`` tokens and begin with ``prefix_token_ids``."""

    provider: str
    source_sha256: str
    tokenizer_sha256: str
    seq_len: int
    prefix_token_ids: list[int]
    slices: NotRequired[list[TextSlice]]


class ScoredText(SourceOfText):
    """The text and the number of its windows."""

    windows: WindowCounts


class ReportedText(SourceOfText):
    """The text and its windows in a report."""

    windows: DrawnWindows


class EditBlock(TypedDict):
    """The edit or fault of a subject."""

    name: str
    label: str
    spec: str
    parameters: JsonObject
    label_source: NotRequired[str]
    expected: NotRequired[list[str]]


class PolicyOrigin(TypedDict):
    """The origin of a report's policy: the tier, the preset of the model, and overrides."""

    tier: str
    preset_sha256: str | None
    preset_limits: JsonObject
    overrides: JsonObject


class PolicyProvenance(PolicyOrigin):
    """The origin of a report's policy, with the digest of all its limits."""

    policy_digest: str


class AskedAgain(TypedDict):
    """The number of windows that a server scored twice, and the largest difference in nats per token."""

    windows: int
    largest_difference: float | None


class ServedModel(TypedDict):
    """A model behind a server: what the server states, and how it was scored."""

    model: str
    stated: dict[str, str]
    asked_again: AskedAgain
    dialect: str
    prompt: str
    top_k: int


class Subject(TypedDict):
    """``sha256:<hex>`` of the subject's checkpoint, None if it is behind a server; the name of a user's own folder."""

    digest: str | None
    name: NotRequired[str]
    served: NotRequired[ServedModel]
    model_signature: NotRequired[ModelSignatureBlock]


class Float16Overflow(TypedDict):
    """The largest output of a subject that is stored in float16, if it does not fit; and the module that gives it."""

    module: str
    largest: float


class ScoredAs(TypedDict):
    """The form in which each side was scored."""

    baseline: str
    subject: str


class Scoring(TypedDict):
    """How a subject was scored, or why it was not."""

    not_scored: str | None
    batch_size: int | None
    scored_as: ScoredAs
    float16_overflow: NotRequired[Float16Overflow]


class RemovedDifference(TypedDict):
    """A difference in the weights that was removed because it does not change the model's function."""

    kind: str
    modules: list[str]
    largest: float | None


class SkippedDifference(TypedDict):
    """A difference that could not be removed, with the reason."""

    kind: str
    reason: str


class Assurance(TypedDict):
    """The verdict of a report: FAIL if a blocking gate fails."""

    mode: str
    verdict: Literal["PASS", "FAIL"]
    blocking_reasons: list[str]


class ScoredWindows(TypedDict):
    """Windows by their ids, with the number of tokens and the mean loss of each, in nats per token."""

    window_ids: list[str]
    token_counts: list[int]
    logloss: list[float | None]
    slices: NotRequired[list[str]]


class ComparedWindows(ScoredWindows):
    """Windows with the losses of both sides, and with their tokens if a setting requires it."""

    baseline_logloss: list[float | None]
    token_ids: NotRequired[list[str]]


class EvaluationWindows(TypedDict):
    """The windows of the preview and those of the final measurement."""

    preview: ComparedWindows
    final: ComparedWindows


class Report(TypedDict):
    """``evaluation.report.json``: raw measurements, and the values that follow from them."""

    schema_version: Literal["v1"]
    run_id: str
    meta: ReportMeta
    context: JsonObject
    edit: EditBlock
    subject: Subject
    baseline_ref: BaselineReference
    dataset: ReportedText
    evaluation_windows: EvaluationWindows
    scoring: Scoring
    equivalence: NotRequired[list[RemovedDifference]]
    equivalence_not_used: NotRequired[list[SkippedDifference]]
    task_records: NotRequired[TaskRecordsDocument]
    guards: list[str]
    invariants: JsonObject
    spectral: JsonObject
    rmt: JsonObject
    variance: JsonObject
    primary_metric: JsonObject
    primary_metric_tail: JsonObject
    fidelity: JsonObject
    tasks: JsonObject
    policy_provenance: PolicyProvenance
    resolved_policy: JsonObject
    validation: dict[str, bool]
    assurance: Assurance
    telemetry: dict[str, float | None]


class BaselineDraw(TypedDict):
    """The measurements of a baseline on the windows of one run; ``probe`` has those on the probe's text."""

    run: int
    seeds: Seeds
    preview: ScoredWindows
    final: ScoredWindows
    fidelity: KeptTokens
    rmt: JsonObject
    variance: JsonObject
    probe: NotRequired[JsonObject]


class BaselineReport(TypedDict):
    """The report of a baseline: raw measurements of its weights, and one row in ``draws`` per run."""

    schema_version: Literal["v1"]
    run_id: str
    meta: MeasuredMeta
    context: JsonObject
    baseline: BaselineDigests
    dataset: ScoredText
    draws: list[BaselineDraw]
    invariants: JsonObject
    spectral: JsonObject
    rmt: JsonObject
    variance: JsonObject
    telemetry: NotRequired[dict[str, float | None]]


class ResultFile(TypedDict):
    """A file from which results were read."""

    name: str
    sha256: str


class ResultFiles(TypedDict):
    """The files of both sides."""

    baseline: list[ResultFile]
    subject: list[ResultFile]


class SideResults(TypedDict):
    """The scores of one side's samples, from 0 to 1, and which samples are correct."""

    correct: list[bool] | None
    scores: list[float]


class TaskResults(TypedDict):
    """The results of both sides on the samples of one task."""

    task: str
    metric: str
    samples: list[str]
    prompts: list[str]
    targets: list[str]
    baseline: SideResults
    subject: SideResults


class TaskRecordsDocument(TypedDict):
    """``task_records.json``: results of baseline and subject that another tool measured."""

    format: str
    tool: str
    sources: ResultFiles
    tasks: list[TaskResults]


class Coverage(TypedDict):
    """The share of the parameters that an edit changed."""

    edited_params: int
    total_params: int
    edited_tensors: int
    coverage_ratio: float


class EditMetadata(TypedDict):
    """``edit_metadata.json``: the edited checkpoint of a report."""

    schema: str
    artifact_class: str
    edit_type: str
    edit_label: str
    edit_label_source: NotRequired[str]
    edit_semantics: str
    parameters: JsonObject
    scope: str | None
    backend: str | None
    storage_format: str
    actual_storage_format: str
    packed_quantized_storage: bool
    deployable_as_hf_checkpoint: bool
    optimized_deployment_backend: str | None
    runtime_memory_reduction: bool
    runtime_memory_reduction_expected: bool
    run_directory_contains_edit_artifacts: bool
    baseline_digest: str
    subject_digest: str
    coverage: Coverage


class ConfigReference(TypedDict):
    """The configuration file of an evaluation."""

    source: str
    path: str | None
    sha256: str | None


class ReportReference(TypedDict):
    """The report to which a runtime manifest belongs."""

    filename: str
    path: str
    sha256: str


class RuntimeFacts(TypedDict):
    """The container of an evaluation, and what it was allowed to do."""

    container_execution: bool
    image_ref: str | None
    image_digest: str | None
    allow_network: bool
    allow_remote_code: bool
    allow_third_party_plugins: bool


class RuntimeManifest(TypedDict):
    """``runtime.manifest.json``: how the evaluation of a report was run."""

    manifest_version: Literal[1]
    verifier_contract_version: str
    generated_at_utc: str
    execution_mode: str
    config: ConfigReference
    report: ReportReference
    runtime: RuntimeFacts
    context: NotRequired[JsonObject]
