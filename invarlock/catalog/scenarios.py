"""Scenarios: how subjects are made and what is expected of them, read from ``scenarios.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from invarlock.catalog.deployables import DeployableSpec, parse_deployable_spec
from invarlock.catalog.edit_labels import CUSTOM, SubjectEdit
from invarlock.catalog.edit_specs import CleanSpec, EditSpec, parse_edit_spec
from invarlock.catalog.models import Suite
from invarlock.catalog.sweeps import step_problem, steps
from invarlock.errors import DocumentError, UsageError
from invarlock.jsonio import check_schema, read_json
from invarlock.problems import Code

Category = Literal["clean", "stress", "error_injection", "deployable"]
Strictness = Literal["must_pass", "must_fail", "must_detect", "informational"]

# The largest shipped catalog has 25 KB; one with ten thousand scenarios would have about 10 MB.
MAX_SCENARIOS_BYTES = 16 * 1024 * 1024

# The artifact classes that each kind of generation makes; evidence without a subject is built from reports only.
ARTIFACT_CLASSES: Mapping[str, tuple[str, ...]] = {
    "edit": ("validation_subject_checkpoint",),
    "error": ("fault_injection_fixture",),
    "deployable_edit": ("deployable_optimized_subject",),
    "brought": ("validation_subject_checkpoint", "evidence_only_pack"),
}


@dataclass(frozen=True)
class EditGeneration:
    """A subject made by an edit, whose parameters may differ by model."""

    spec: EditSpec | CleanSpec
    by_model: Mapping[str, EditSpec | CleanSpec]

    def for_model(self, model_id: str) -> EditSpec | CleanSpec:
        """Return the edit for a model: the model's own edit if the scenario has one, else the scenario's edit."""
        return self.by_model.get(model_id, self.spec)


@dataclass(frozen=True)
class FaultGeneration:
    """A subject made by a fault; parameters for a model override the scenario's parameters of the same name."""

    error_type: str
    params: Mapping[str, Any]
    params_by_model: Mapping[str, Mapping[str, Any]]

    def for_model(self, model_id: str) -> dict[str, Any]:
        """Return the fault's parameters for a model: the scenario's parameters, overridden by the model's own."""
        return {**self.params, **self.params_by_model.get(model_id, {})}


@dataclass(frozen=True)
class DeployableGeneration:
    """A subject packed by a backend in the form in which it is served."""

    spec: DeployableSpec


@dataclass(frozen=True)
class UserSubjectGeneration:
    """A user's own subject: its folder, which no document contains, and the known facts about its edit.

    ``expected`` are its declared changes of structure, ``signatures`` the verified model signatures by side.
    """

    folder: Path
    edit: SubjectEdit
    expected: tuple[str, ...] = ()
    signatures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """Return the spec of the subject's report."""
        return CUSTOM if self.edit.spec is None else str(self.edit.spec)


@dataclass(frozen=True)
class Scenario:
    """One row of the catalog; ``document`` is the row as in the file."""

    id: str
    category: Category
    strictness: Strictness
    primary_guard: str
    generation: EditGeneration | FaultGeneration | DeployableGeneration | UserSubjectGeneration
    suites: tuple[str, ...]
    document: Mapping[str, Any]

    def in_suite(self, suite: Suite) -> bool:
        """Return whether the scenario is part of a suite.

        A scenario without a list of suites is part of all suites, except those limited to named scenarios.
        """
        return suite.name in self.suites or not (self.suites or suite.named_scenarios_only)


def read_scenarios(path: Path) -> tuple[Scenario, ...]:
    """Return the scenarios of a catalog in its order; a row with a ``sweep`` becomes one scenario per value.

    Raises:
        MissingFileError: when the file does not exist.
        DocumentError: when it is malformed, a scenario appears twice or an edit spec is invalid.
    """
    document = read_json(path, limit_bytes=MAX_SCENARIOS_BYTES)
    check_schema(document, "scenarios", where=str(path))
    scenarios: dict[str, Scenario] = {}
    for row in (step for catalogued in document["scenarios"] for step in steps(catalogued)):
        if row["id"] in scenarios:
            raise DocumentError(f"scenario {row['id']!r} appears twice", code=Code.SUITE_MALFORMED, where=str(path))
        problem = step_problem(row)
        if problem is not None:
            raise DocumentError(f"{problem}", code=Code.SUITE_MALFORMED, where=str(path))
        requirements = row["requirements"]
        if row["strictness"] == "must_detect" and not (
            requirements["detectors_all_of"] or requirements["detectors_any_of"]
        ):
            raise DocumentError(
                f"scenario {row['id']!r}: it must be detected, but has no detector; add one to "
                "detectors_all_of, or make it informational",
                code=Code.SUITE_MALFORMED,
                where=str(path),
            )
        if row["artifact_class"] not in ARTIFACT_CLASSES[row["generation"]["kind"]]:
            allowed = " or ".join(ARTIFACT_CLASSES[row["generation"]["kind"]])
            raise DocumentError(
                f"scenario {row['id']!r}: its artifact_class is {row['artifact_class']!r}, but its "
                f"generation makes a {allowed}; correct the class",
                code=Code.SUITE_MALFORMED,
                where=str(path),
            )
        scenarios[row["id"]] = Scenario(
            id=row["id"],
            category=row["category"],
            strictness=row["strictness"],
            primary_guard=row["primary_guard"],
            generation=_generation(row, path),
            suites=tuple(row.get("suites", ())),
            document=row,
        )
    return tuple(scenarios.values())


def _generation(row: dict[str, Any], path: Path) -> EditGeneration | FaultGeneration | DeployableGeneration:
    generation = row["generation"]
    if generation["kind"] == "brought":
        raise DocumentError(
            f"scenario {row['id']!r}: own subjects are given with --subject; remove the row",
            code=Code.SUITE_MALFORMED,
            where=str(path),
        )
    if generation["kind"] == "error":
        return FaultGeneration(
            generation["error_type"], generation.get("params", {}), generation.get("params_by_model", {})
        )
    try:
        if generation["kind"] == "deployable_edit":
            spec = parse_deployable_spec(generation["edit_spec"])
            if spec.backend != generation["backend"]:
                raise UsageError(
                    f"its backend is {generation['backend']!r}, but its edit_spec has {spec.backend!r}",
                    code=Code.EDIT_SPEC_INVALID,
                )
            return DeployableGeneration(spec)
        by_model = generation.get("edit_spec_by_model", {})
        return EditGeneration(
            parse_edit_spec(generation["edit_spec"]), {model: parse_edit_spec(text) for model, text in by_model.items()}
        )
    except UsageError as error:
        raise DocumentError(f"scenario {row['id']!r}: {error}", code=Code.SUITE_MALFORMED, where=str(path)) from None
