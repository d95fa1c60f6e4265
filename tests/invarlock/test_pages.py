"""The parts of pages: numbers, links, figures."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invarlock.pages.document import html_document, link
from invarlock.pages.figures import interval_figure
from invarlock.pages.markup import element
from invarlock.pages.numbers import bytes_text, change_text, share_text


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(1.0, "0 %"), (1.0153, "+1.53 %"), (0.98, "-2 %"), (1.1, "+10 %"), (1.0004, "+0.04 %"), (5.57097, "+457 %"),
     (10.9, "+990 %"), (11.0, "× 11"), (2163.2, "× 2.16e+03"), (None, "–"), (float("inf"), "–")],
)  # fmt: skip
def test_a_ratio_is_shown_as_a_change(ratio: float | None, shown: str) -> None:
    assert change_text(ratio) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0 %"), (0.98929, "98.93 %"), (1.0, "100 %"), (0.5, "50 %"), (1.5, "150 %"), (2e-5, "< 0.01 %"),
     (250.0, "× 250"), (None, "–")],
)  # fmt: skip
def test_a_share_is_shown_in_per_cent(share: float | None, shown: str) -> None:
    assert share_text(share) == shown


def test_a_size_has_a_unit() -> None:
    assert [bytes_text(size) for size in (12, 2_099_456, 3_000_000_000)] == ["12 bytes", "2.1 MB", "3 GB"]


@given(st.text(max_size=60))
def test_a_link_never_leaves_the_folder_of_the_page_for_a_scheme_or_a_host(path: str) -> None:
    made = link(path, "x")

    target = re.fullmatch(r'<a href="([A-Za-z0-9/._~%-]*)">x</a>', made)
    assert target is not None
    assert not target[1].startswith("/")
    assert ":" not in target[1]


def test_a_document_lets_only_its_own_style_and_script_run() -> None:
    plain, scripted = (html_document("t", element("p", "x"), script).decode() for script in ("", "1;"))

    assert "script-src" not in plain
    assert scripted.count("script-src &#x27;sha256-") == 1
    assert scripted.endswith("<script>1;</script></body></html>\n")


def test_an_interval_is_drawn_with_its_limit_and_an_axis_in_per_cent() -> None:
    figure = interval_figure(1.0517, 1.0433, 1.0599, 1.1)

    labels = re.findall(r"<text[^>]*>([^<]*)</text>", figure)
    assert labels == ["0", "+2 %", "+4 %", "+6 %", "+8 %", "+10 %", "limit +10 %", "change of perplexity"]
    place = {label: float(x) for x, label in re.findall(r'<text x="([\d.]+)"[^>]*>([^<]*)<', figure)}
    assert place["limit +10 %"] == place["+10 %"]
    assert "beyond" not in figure
    assert "beyond" in interval_figure(1.2, 1.1, 1.3, 1.1)


@given(*[st.floats(min_value=5e-324, max_value=1e308)] * 3)
def test_an_interval_of_any_numbers_is_drawn_inside_of_the_figure(ratio: float, low: float, high: float) -> None:
    drawn = interval_figure(ratio, low, high, 1.1)

    values = [float(value) for value in re.findall(r' (?:x|cx|x1|x2)="([^"]+)"', drawn)]
    assert all(-1 <= value <= 481 for value in values)
