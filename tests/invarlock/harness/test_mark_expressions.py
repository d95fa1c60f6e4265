"""The cases that ``-m`` selects: pytest's grammar, and the single suite that a run must have."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.catalog.models import Models, read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.errors import UsageError
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import CATEGORY_MARKS, Catalog, check_mark_names, is_byoe, make_catalog
from invarlock.settings import resolve_settings

SUITES = Path(__file__).parents[3] / "suites"
MARKS = ("smoke", "full", "clean", "mistral-7b-v0.1", "a[b]")
SETTINGS = resolve_settings({}, {})


def catalog_of(text: str) -> Catalog:
    models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
    return make_catalog(models, scenarios, MarkExpression.parse(text), [], SETTINGS)


def selected(text: str) -> set[str]:
    """Return the ids of the cases that ``-m`` selects."""
    catalog, expression = catalog_of(text), MarkExpression.parse(text)
    return {
        case.id
        for case in catalog.cases
        if catalog.selects(case, None) and expression.selects(set(catalog.marks(case)))
    }


@pytest.mark.parametrize(
    ("text", "suite", "count"),
    [
        ("", "smoke", 84),
        ("smoke and not full", "smoke", 84),
        ("clean and not subset", "smoke", 24),
        ("not subset", "smoke", 84),
        ("(smoke)", "smoke", 84),
        ("not (not smoke)", "smoke", 84),
        ("subset", "subset", 37),
        ("full and not subset", "full", 197),
        ("subset and not smoke", "subset", 37),
        ("mistral-tiny", "smoke", 28),
        ("guard_value and mistral-tiny", "guard_value", None),
        ("laptop", "laptop", 66),
        ("deployable", "smoke", 3),
        ("smoke and not deployable", "smoke", 84),
        ("smoke and gpu", "smoke", 0),
    ],
)
def test_the_suite_of_a_run_is_the_one_that_the_expression_names(text: str, suite: str, count: int | None) -> None:
    found = selected(text)

    assert catalog_of(text).suite == suite
    assert len(found) == count if count is not None else found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smoke or subset", "suites smoke and subset"),
        ("full and subset", "suites subset and full"),
        ("smoke and clean or full and stress", "suites smoke and full"),
        ("not smoke", "no case of suite smoke, but cases of guard_value, laptop, subset, showcase, workshop3, full"),
        ("gpu and clean", "-m 'subset and (gpu and clean)'"),
    ],
)
def test_cases_of_several_suites_or_of_none_that_is_named_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        catalog_of(text)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "column"), [("smoke and", 10), ("and smoke", 1), ("smoke)", 6), ("smoke clean", 7), ("smoke & clean", 7)]
)
def test_an_expression_that_pytest_cannot_read_says_where(text: str, column: int) -> None:
    with pytest.raises(UsageError, match=f"column {column}: "):
        MarkExpression.parse(text)


@pytest.mark.parametrize(
    ("text", "unknown", "suggested"),
    [
        ("smok", "smok", "smoke"),
        ("smoke and claen", "claen", "clean"),
        ("smoke and not error_injetion", "error_injetion", "error_injection"),
        ("Mistral-Tiny", "Mistral-Tiny", "mistral-tiny"),
        ("smoke or xyz", "xyz", None),
    ],
)
def test_an_unknown_mark_is_named_with_the_known_one_most_like_it(
    text: str, unknown: str, suggested: str | None
) -> None:
    known = catalog_of("smoke").known_marks()

    with pytest.raises(UsageError) as refused:
        check_mark_names(MarkExpression.parse(text), known)

    assert repr(unknown) in str(refused.value)
    assert (f"did you mean {suggested}?" in str(refused.value)) == (suggested is not None)


def test_marks_of_the_folder_stay_known_where_models_of_the_user_replace_its_own() -> None:
    models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
    settings = resolve_settings({}, {"MODEL_1": "someone/model"})
    expression = MarkExpression.parse("smoke and not full")

    catalog = make_catalog(models, scenarios, expression, [], settings)

    assert catalog.suite == "smoke"
    check_mark_names(expression, [*catalog.known_marks(), *catalog_of("").known_marks()])


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("byoe", True),
        ("byoe and clean", True),
        ("byoe and mymodel", True),
        ("byoe and not smoke", True),
        ("smoke and not byoe", False),
        ("byoe and smoke", False),
        ("byoelike", False),
        ("", False),
    ],
)
def test_own_checkpoints_run_only_where_the_expression_selects_them(text: str, selected: bool) -> None:
    models: Models = read_models(SUITES / "models.toml")

    assert is_byoe(MarkExpression.parse(text), models, SETTINGS) == selected


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("sentinel", True),
        ("sentinel or clean", True),
        ("not sentinel", False),
        ("smoke and not sentinel", False),
        ("", False),
    ],
)
def test_sentinels_run_only_where_the_expression_selects_them(text: str, selected: bool) -> None:
    assert catalog_of(text).sentinels == selected


@pytest.mark.skipif(pytest.version_tuple < (8, 3), reason="arguments of marks came with pytest 8.3")
def test_a_mark_in_an_argument_of_another_is_no_mark_of_the_expression() -> None:
    expression = MarkExpression.parse("smoke or device(serial='full or subset', smok=1)")

    assert expression.names == ("smoke", "device")
    assert expression.selects({"smoke"})
    assert not expression.selects({"device"})


def expressions() -> st.SearchStrategy[tuple[str, object]]:
    """Expressions as text, each with its tree: a mark, or an operator and its operands."""
    leaves = st.sampled_from(MARKS).map(lambda name: (name, name))

    def extend(inner: st.SearchStrategy[tuple[str, object]]) -> st.SearchStrategy[tuple[str, object]]:
        pairs = st.tuples(inner, inner, st.sampled_from(("and", "or")))
        both = pairs.map(lambda p: (f"({p[0][0]}) {p[2]} ({p[1][0]})", (p[2], p[0][1], p[1][1])))
        return st.one_of(both, inner.map(lambda one: (f"not ({one[0]})", ("not", one[1]))))

    return st.recursive(leaves, extend, max_leaves=8)


def holds(tree: object, marks: set[str]) -> bool:
    if isinstance(tree, str):
        return tree in marks
    assert isinstance(tree, tuple)
    operator, *operands = tree
    values = [holds(operand, marks) for operand in operands]
    return {"and": all(values), "or": any(values), "not": not values[0]}[operator]


@given(expressions(), st.sets(st.sampled_from(MARKS)))
def test_an_expression_selects_by_its_operators(expression: tuple[str, object], marks: set[str]) -> None:
    text, tree = expression

    parsed = MarkExpression.parse(text)

    assert parsed.selects(marks) == holds(tree, marks)
    assert set(parsed.names) <= set(MARKS)
    for mark in MARKS:
        because = holds(tree, marks | {mark}) and not holds(tree, marks - {mark})
        assert parsed.selects_by(mark, [marks | {mark}]) == because


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parsed = MarkExpression.parse(text)
    except UsageError as refused:
        assert "\n" not in str(refused)  # noqa: PT017
        return

    assert parsed.selects(set(CATEGORY_MARKS)) in (True, False)
