"""The tuned parameters of the clean edits of each model, read from ``tuned_edit_params.json``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.catalog.edit_specs import CleanSpec, EditSpec, make_edit_spec, parse_scope
from invarlock.errors import MissingFileError, UsageError
from invarlock.jsonio import check_schema, read_json
from invarlock.problems import Code

MAX_TUNED_PARAMS_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class TunedParams:
    """Tuned parameters by model id and edit, and the file they were read from."""

    source: str
    models: Mapping[str, Mapping[str, Mapping[str, Any]]]
    document: Mapping[str, Any]

    def resolve(self, spec: EditSpec | CleanSpec, model_id: str) -> EditSpec:
        """Return the edit with its parameters; the tuned scope replaces the scope of a ``clean`` spec.

        Raises:
            UsageError: when this model has no tuned parameters for a ``clean`` spec, or the evidence of its parameters
                contradicts them.
        """
        if isinstance(spec, EditSpec):
            return spec
        row = self.models.get(model_id, {}).get(spec.edit)
        if row is None:
            raise UsageError(
                f"{self.source}: no tuned parameters of {spec.edit} for {model_id}; add an entry, or give "
                "parameters in the scenario's edit_spec_by_model",
                code=Code.TUNED_PARAMETERS_UNUSABLE,
            )
        where = f"{self.source}: {model_id}, {spec.edit}"
        selected = make_edit_spec(spec.edit, row, parse_scope(row["scope"], where=where), where)
        if "evidence" in row and str(selected) not in _passed(row["evidence"]):
            raise UsageError(
                f"{selected} did not pass according to its evidence; tune again, or drop the evidence",
                code=Code.TUNED_PARAMETERS_UNUSABLE,
                where=where,
            )
        return selected

    def with_edits(self, edits: Mapping[str, Mapping[str, Mapping[str, Any]]], source: str) -> TunedParams:
        """Return the tuned parameters with entries for the same model and edit replaced.

        Args:
            edits: entries by model id and edit, in the format of the file.
            source: their file, recorded in each entry as ``given_by``.
        """
        models = {model_id: dict(entries) for model_id, entries in self.models.items()}
        for model_id, entries in edits.items():
            rows = {edit: {**row, "given_by": source} for edit, row in entries.items()}
            models[model_id] = {**models.get(model_id, {}), **rows}
        both = f"{self.source} and {source}" if self.models else source
        return TunedParams(both, models, {**self.document, "models": models})

    def document_of(self, model_ids: Collection[str]) -> dict[str, Any]:
        """Return the document with only the entries of the given models: a run stores only what it can use."""
        kept = {model_id: edits for model_id, edits in self.models.items() if model_id in model_ids}
        return {**self.document, "models": kept}


NO_TUNED_PARAMS = TunedParams("tuned_edit_params.json", {}, {"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}})


def _passed(evidence: Any) -> list[str]:
    """Return the specs that were tried and passed, according to the tuner's evidence."""
    trials = evidence if isinstance(evidence, list) else []
    return [str(trial.get("spec")) for trial in trials if isinstance(trial, Mapping) and trial.get("holds") is True]


def read_tuned_params(path: Path) -> TunedParams:
    """Return the tuned parameters of a file.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when it is malformed.
    """
    try:
        document = read_json(path, limit_bytes=MAX_TUNED_PARAMS_BYTES)
    except MissingFileError as error:
        raise MissingFileError(
            f"{error}; clean edits need it: create the file, give another with "
            "PACK_TUNED_EDIT_PARAMS_FILE, or make one: invarlock tune MODEL --output FILE",
            code=Code.FILE_MISSING,
        ) from None
    check_schema(document, "tuned_edit_params", where=str(path))
    return TunedParams(path.name, document["models"], document)
