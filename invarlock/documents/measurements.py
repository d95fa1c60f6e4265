"""The raw measurements in reports and null runs: of weights, of activations, and of outputs."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from invarlock.documents.json_object import JsonObject


class TensorFacts(TypedDict):
    """One tensor of a checkpoint; ``zero`` marks a vector of zeros of which some are −0.0, unlike its digest."""

    digest: str
    dtype: str
    family: str
    nonfinite: int
    shape: list[int]
    zero: NotRequired[Literal[True]]


class EmbeddingFacts(TypedDict):
    """The tensors of the embedding and the head, and whether they are the same tensor."""

    embedding: str | None
    head: str | None
    tied_by_storage: bool
    tied_by_value: bool


class ConfigurationFacts(TypedDict):
    """The configuration of a model, of its generation and of its tokenizer; None if unknown."""

    config: dict[str, bool | float | str]
    generation: dict[str, bool | float | str] | None
    tokenizer: dict[str, str] | None
    special_tokens: dict[str, str]
    appended_token_ids: list[int] | None
    chat_template: str | None
    text_as_baseline: bool | None


class QuantisationFacts(TypedDict):
    """The declared quantisation of a checkpoint; None if it is not declared."""

    method: str
    bits: float | None
    group_size: int | None
    symmetric: bool | None
    activation_bits: float | None
    calibration: str | None
    tool: str | None
    ignored_modules: list[str]


class StorageFacts(TypedDict):
    """The storage format of a checkpoint, and the number and bytes of its weights."""

    format: str
    weights: int
    packed_weights: int
    packed_bytes: int
    stored_bytes: int
    bits_per_weight: float
    unpacked_modules: list[str]
    quantisation: QuantisationFacts | None


class StorageDefect(TypedDict):
    """A tensor that cannot be read in the way that its format requires."""

    kind: str
    tensor: str
    reason: str


class InvariantFacts(EmbeddingFacts):
    """The measurements of the guard ``invariants`` on one side."""

    measurement_contract_hash: str
    tensors: dict[str, TensorFacts]
    config: JsonObject
    configuration: ConfigurationFacts
    modules_known_by: str
    tokenizer_tokens: int | None
    vocabulary_sha256: str | None
    prefix_token_ids: list[int] | None
    added_special_tokens: int | None
    storage: StorageFacts
    defects: list[StorageDefect]


class MatrixSpectrum(TypedDict):
    """The spectral norm of a matrix with its residual, and the Frobenius norm; None if not finite."""

    family: str
    shape: list[int]
    sigma: float | None
    residual: float | None
    frobenius: float | None


class Spectra(TypedDict):
    """The measurements of the guard ``spectral`` on one side."""

    measurement_contract_hash: str
    modules: dict[str, MatrixSpectrum]


class MatrixChange(TypedDict):
    """The composition of the change of one matrix; ``unit_order`` is the order of its hidden units, if measured."""

    relative: float | None
    coherent: float | None
    flipped: float | None
    edge_risk: float | None
    unit_order: str | None


class TensorRows(TypedDict):
    """The measurements of a guard that measures tensors one by one, on one side."""

    measurement_contract_hash: str
    modules: dict[str, JsonObject]


class CanonicalMatrices(TypedDict):
    """The matrices that are compared in a form other than the stored one."""

    baseline: dict[str, MatrixSpectrum]
    subject: dict[str, MatrixSpectrum]
    changes: dict[str, MatrixChange]


class EdgeRiskRow(TypedDict):
    """The activations of one layer; ``edge_risk`` is None if there are too few or they are not finite."""

    tokens: int
    features: int
    nonfinite: int
    edge_risk: float | None


class KeptTokens(TypedDict):
    """The most probable tokens of a baseline: their number at each position, and the file that contains them."""

    top_k: int
    vocabulary: int
    rest_mass: float
    confident: list[int]
    sha256: str


class Histogram(TypedDict):
    """The number of positions in each bin of divergence, from the first used bin to the last."""

    first: int
    counts: list[int]


class Divergences(TypedDict):
    """The divergence of a subject's outputs, one value per window; None for a window whose value is not finite."""

    kl_sum: list[float | int | None]
    kl_max: float | int | None
    histogram: Histogram
    same_top: list[float | int | None]
    confident_same: list[float | int | None]
    delta_p_squared: list[float | int | None]
