"""Tables and sentences on terminals of any width."""

import pytest

from invarlock.text_tables import fit_line, text_table

ROWS = [
    ("scenario", "edit or fault", "guards that signal", ""),
    ("spectral_moderate_scale", "spectral_moderate_scale", "primary_metric, fidelity, spectral, rmt", "as expected"),
    ("noop_control", "noop", "-", "not as expected"),
]


def test_a_table_without_a_limit_has_a_line_a_row() -> None:
    lines = text_table(ROWS)

    assert len(lines) == 3
    assert (
        lines[2]
        == "noop_control             noop                     -                                        not as expected"
    )


def test_cells_continue_on_the_next_line_and_no_word_is_broken() -> None:
    lines = text_table(ROWS, 90)

    assert max(map(len, lines)) <= 90
    words = {word for row in ROWS for cell in row for word in cell.split()}
    assert {word for line in lines for word in line.split()} == words


@pytest.mark.parametrize(("columns", "left_out"), [(60, "edit or fault"), (50, "edit or fault, guards that signal")])
def test_columns_that_may_be_left_out_are_left_out_and_named(columns: int, left_out: str) -> None:
    lines = text_table(ROWS, columns, ("edit or fault", "guards that signal"))

    assert max(map(len, lines)) <= columns
    assert lines[0].split()[0] == "scenario"
    assert not [head for head in left_out.split(", ") if head in lines[0]]
    assert " ".join(" ".join(lines).split()).endswith(f"(left out for the width of the terminal: {left_out})")


def test_a_table_of_long_words_stays_readable_on_a_very_narrow_terminal() -> None:
    assert text_table([("scenario",), ("spectral_moderate_scale",)], 10) == ["scenario", "spectral_moderate_scale"]


def test_a_sentence_is_folded_between_words() -> None:
    assert fit_line("84 cases: 24 clean, 6 destructive, 36 faults", None) == [
        "84 cases: 24 clean, 6 destructive, 36 faults"
    ]
    assert fit_line("84 cases: 24 clean, 6 destructive, 36 faults, 18 informational", 44) == [
        "84 cases: 24 clean, 6 destructive, 36",
        "  faults, 18 informational",
    ]
