"""Pages in Chromium: ``tox -e pages``. Screenshots stay in the folder that ``INVARLOCK_SCREENSHOTS`` names."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packs import FAULT, REPORT, STRESS, page_of

from invarlock.reports.rendering import render_report

CHROMIUM = os.environ.get("INVARLOCK_TEST_BROWSER")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="run by tox -e pages: needs Chromium (INVARLOCK_TEST_BROWSER)"),
    pytest.mark.slow,
]

NAMES = ("overview", "passing", "failing", "fault", "hostile")
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
HOSTILE = "</style></td>\"'><script>alert(1)</script>&\x1b[31m\u202e" + "x" * 400


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(real_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the page of the pack, those of three reports, and one of a report with hostile names."""
    pack = real_run.pack
    report = json.loads((pack / STRESS).read_bytes())
    report["meta"].update(model_id=f"organisation/{HOSTILE}", scenario=f"scenario_{HOSTILE}")
    report["edit"].update(label=HOSTILE, spec=HOSTILE)
    matrices = report["spectral"]["modules"]
    report["spectral"]["modules"] = {f"{name}{HOSTILE}": row for name, row in matrices.items()}
    hostile = tmp_path_factory.mktemp("hostile") / "evaluation.html"
    hostile.write_bytes(render_report(report, "5" * 64))
    found = [pack / "index.html", *(pack / page_of(path) for path in (REPORT, STRESS, FAULT)), hostile]
    return dict(zip(NAMES, found, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_a_page_has_no_console_errors_is_accessible_and_fits_its_window(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, size: dict[str, int]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))

    page.goto(pages[name].as_uri())

    folder = os.environ.get("INVARLOCK_SCREENSHOTS")
    if folder is not None:
        page.screenshot(path=str(Path(folder) / f"{name}_{scheme}_{size['width']}.png"), full_page=True)
    assert (messages, requests) == ([], [pages[name].as_uri()])
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    violations = Axe().run(page).response["violations"]
    assert [(row["id"], [node["html"][:200] for node in row["nodes"]][:3]) for row in violations] == []
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_valid_html(pages: dict[str, Path], name: str) -> None:
    import html5lib

    parser = html5lib.HTMLParser(strict=False)
    parser.parse(pages[name].read_bytes())

    # html5lib knows no srcdoc and the like, but all that this finds is wrong
    assert parser.errors == []


def test_the_page_of_a_pack_is_complete_without_script_and_sorts_and_filters_with_it(
    browser: Any, pages: dict[str, Path]
) -> None:
    shown = {}
    for is_on in (False, True):
        context = browser.new_context(viewport=WIDE, java_script_enabled=is_on)
        page = context.new_page()
        page.goto(pages["overview"].as_uri())
        shown[is_on] = (page.locator("#cases tbody tr").count(), page.locator("#controls *").count() > 0)
    # the last is the one with scripts
    page.locator("#controls input").fill("prune")
    left = page.locator("#cases tbody tr:visible").count()
    page.locator("#controls input").fill("")
    page.locator("#cases th button", has_text="perplexity").click()
    page.locator("#cases th button", has_text="perplexity").click()
    order = page.locator("#cases tbody tr td.number:nth-of-type(6)").all_inner_texts()

    assert (shown, left) == ({False: (3, False), True: (3, True)}, 1)
    assert order[0] == "–" or order[0].startswith("×")
    assert order[-1] == "0 %"


def test_the_links_of_a_report_lead_to_the_other_pages(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_context().new_page()
    page.goto(pages["passing"].as_uri())

    for name in ("Next", "Previous", "Overview"):
        page.get_by_role("link", name=name).click()

    assert page.url == pages["overview"].as_uri()


def test_a_page_in_print_shows_what_is_folded_and_ends_with_its_text(
    browser: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    page = browser.new_context().new_page()
    page.goto(pages["passing"].as_uri())
    page.emulate_media(media="print")

    assert page.get_by_text("measurement contract, spectral").is_visible()
    page.pdf(path=str(tmp_path / "page.pdf"), tagged=True)
    assert b"/MarkInfo" in (tmp_path / "page.pdf").read_bytes()
