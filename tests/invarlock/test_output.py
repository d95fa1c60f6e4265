"""What leaves a command is printable, whatever is in a name."""

import ast
import io
import os
import shutil
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from invarlock.packer.cli import main as packer
from invarlock.packer.format.readme import render_readme
from processes import packer_process, succeed

from invarlock.errors import printable
from invarlock.output import say
from invarlock.reports.markdown import code_block, code_span, inline
from invarlock.verdict.rendering import render_verdict_text

ROOT = Path(__file__).parents[2]
ESCAPE, TITLE, BIDI, SURROGATE = "\x1b[2J", "\x1b]0;pwned\x07", "\u202e", "\udcff"
HOSTILE = f"a{ESCAPE}{TITLE}{BIDI}{SURROGATE}\r\nVERIFIED: all is well\u2028\x9b1m"


def is_safe(text: str) -> bool:
    """Whether a text has no control, no mark of direction and no half of a surrogate pair."""
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text) and not set(
        text
    ) & set("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(st.text(alphabet=st.characters(codec=None)))
@example(HOSTILE)
@example("".join(map(chr, range(0x3000))))
def test_any_text_becomes_one_safe_line_and_a_safe_text_stays(text: str) -> None:
    shown = printable(text)

    assert is_safe(shown)
    assert printable(shown) == shown
    assert shown.encode("utf-8").decode("utf-8") == shown
    if text.isascii() and text.isprintable():
        assert shown == text


@given(st.lists(st.text(alphabet=st.characters(codec=None)), max_size=4))
def test_a_printed_line_is_one_line(lines: list[str]) -> None:
    printed = io.StringIO()

    with redirect_stdout(printed):
        say(*lines)

    assert printed.getvalue().count("\n") == len(lines)
    assert all(is_safe(line) for line in printed.getvalue().split("\n"))


def test_nothing_is_printed_but_by_the_one_module() -> None:
    files = [*(ROOT / "invarlock").rglob("*.py"), *(ROOT / "packer").rglob("*.py")]
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        if path.name != "output.py" and not path.is_symlink()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert calls == []


@given(st.text(alphabet=st.characters(codec=None), max_size=40))
@example("\n# A heading\n<script>alert(1)</script>")
@example("``` `` <b>")
@example("[a](https://example.org) ![b](c) www.example.org")
def test_a_value_in_markdown_is_plain_text(value: str) -> None:
    shown = inline(value)

    assert is_safe(shown)
    assert code_span(value).count("`") == 2
    # what is not a code span has no character that means something within a line
    if not shown.startswith("`"):
        assert not set(shown) & set("`<>[]()!&*#\\~|/")
        assert "__" not in shown


def test_a_code_block_ends_where_it_is_meant_to() -> None:
    block = code_block(["a", "```", "````", "# b\n<script>"]).split("\n")

    assert (block[0], block[-2]) == ("`````", "`````")
    assert block[1:-2] == ["a", "```", "````", "# b\\n<script>"]


def test_a_version_string_adds_no_heading_and_no_markup_to_a_readme() -> None:
    counts = {"records_passed": 1, "cases_total": 1, "models_total": 1}
    hostile = "0.1\n# VERIFIED\n<script>alert(1)</script> `x` [a](http://b)"
    manifest = dict.fromkeys(("invarlock_version", "suite", "generated_at", "evidence_level"), hostile)

    row = {"name": "noop_clean", "edit_spec": "noop", "strictness": "must_pass", "passed": True}
    verdict = {"verdict": "PASS", "counts": counts, "records": [row]}
    forgery = {**verdict, "records": [dict.fromkeys(("name", "edit_spec", "strictness"), hostile + " | b |")]}

    honest = render_readme({"invarlock_version": "0.1.0", "suite": "smoke"}, verdict, [])
    forged = render_readme(manifest, forgery, []).decode()

    headings = [line for line in honest.decode().split("\n") if line.startswith("#")]
    assert [line for line in forged.split("\n") if line.startswith("#")] == headings
    # outside of code spans nothing of it is left
    assert all("<script>" not in part for line in forged.split("\n") for part in line.split("`")[::2])
    assert b"by InvarLock 0.1.0\n" in honest
    assert {line.count("|") for line in forged.split("\n") if line.startswith("|")} == {5}


def test_a_readme_says_what_was_applied_in_each_scenario() -> None:
    counts = {"records_passed": 2, "cases_total": 3, "models_total": 2}
    row = {"name": "quant_8bit_stress", "strictness": "informational", "passed": True}
    records = [{**row, "edit_spec": f"quant_rtn:{bits}:64:ffn"} for bits in (3, 3, 8)]
    missing = [{**row, "name": "nan_injection", "strictness": "must_detect", "edit_spec": "nan_injection"}]
    del missing[0]["passed"]
    records[0]["passed"] = False
    verdict = {"verdict": "FAIL", "counts": counts, "records": records, "missing": {"cases": missing}}

    rows = [line for line in render_readme({}, verdict, []).decode().split("\n") if line.startswith("| `")]

    assert rows == [
        "| `quant_8bit_stress` | `quant_rtn:3:64:ffn` | `informational` | 1 of 2 |",
        "| `quant_8bit_stress` | `quant_rtn:8:64:ffn` | `informational` | 1 of 1 |",
        "| `nan_injection` | `nan_injection` | `must be detected` | 0 of 1 |",
    ]
    many = {**verdict, "records": [{**records[0], "name": f"s{number}"} for number in range(300)], "missing": {}}
    assert "and 100 more rows" in render_readme({}, many, []).decode()


def test_the_text_of_a_verdict_has_one_line_a_case_whatever_its_names_are() -> None:
    counts = dict.fromkeys(
        (
            "records_passed", "cases_total", "models_total", "clean_pass", "clean_total", "catastrophic_required_fail",
            "catastrophic_required_total", "error_injection_detected", "error_injection_total",
            "informational_stress_total", "informational_stress_signaled", "informational_total",
        ),
        1,
    )  # fmt: skip
    record = {
        "name": HOSTILE, "run_num": 1, "edit_spec": HOSTILE, "strictness": "must_pass", "model": f"x/{HOSTILE}",
        "ratio_vs_baseline": 1.0, "fidelity_kl_mean": 0.0, "guard_flags": {}, "passed": True,
    }  # fmt: skip
    verdict = {"verdict": "PASS", "counts": counts, "failed_requirements": [HOSTILE], "records": [record]}
    plain = {**verdict, "failed_requirements": ["a"], "records": [{**record, "name": "a", "edit_spec": "b"}]}

    text = render_verdict_text(verdict)

    assert text.count("\n") == render_verdict_text(plain).count("\n")
    assert all(is_safe(line) for line in text.split("\n"))


@pytest.mark.parametrize("command", [("verify",), ("inspect",), ("diff", "SAME")])
def test_the_name_of_a_packs_folder_is_printable(pack: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    hostile = Path(os.fsdecode(bytes(folder) + b"/" + b"\x1b]0;pwned\x07\xff\nVERIFIED: x"))
    shutil.move(pack, hostile)
    given = [command[0], str(hostile), *(str(hostile) for _ in command[1:])]
    printed = io.StringIO()

    with redirect_stdout(printed), redirect_stderr(printed):
        code = packer(given)

    assert code == 0, printed.getvalue()
    assert all(is_safe(line) for line in printed.getvalue().split("\n"))
    assert "\nVERIFIED: x" not in printed.getvalue()


def test_names_of_a_trust_store_and_of_an_argument_are_printable(tmp_path: Path) -> None:
    store = tmp_path / "store.json"
    fingerprint = f"sha256:{'1' * 64}"
    printed = io.StringIO()

    with redirect_stdout(printed), redirect_stderr(printed):
        assert packer(["trust", "add", fingerprint, "--name", "\x1b[2J\n sha256:0", "--trust-store", str(store)]) == 0
        assert packer(["trust", "list", "--trust-store", str(store)]) == 0
        with pytest.raises(SystemExit):
            packer(["trust", "list", "--no-such\x1b[2J"])

    assert all(is_safe(line) for line in printed.getvalue().split("\n"))


def test_a_name_that_is_not_utf8_can_be_written_as_json(pack: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/pack-\xff"))
    shutil.move(pack, odd)

    done = succeed(packer_process("verify", odd, "--json", "--json-out", tmp_path / "out.json"))

    assert b"pack-\\\\udcff" in (tmp_path / "out.json").read_bytes()
    assert done.stdout.isascii()
