"""The public Python API: the example of ``docs/api.md`` runs, and verifying needs no PyTorch."""

import lzma
import re
from pathlib import Path
from typing import Any

import pytest
from processes import python, succeed

import invarlock
from invarlock import api
from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.snapshots import make_snapshot

ROOT = Path(__file__).parents[1]
EMBEDDED = ROOT / "suites" / "embedded"
REVISION = "sha256:573f2f128a1f3327943ef120a6f4e1512a363b07f1f32bb3f8e38563c311e4b0"
PAGE = ROOT / "docs" / "api.md"


def test_each_public_name_is_documented_in_its_docstring_and_on_the_page() -> None:
    table = PAGE.read_text("utf-8").partition("| for | names |")[2]

    named = set(re.findall(r"`(\w+)`", table.partition("\n\n")[0]))

    assert named == set(api.__all__)
    assert [name for name in api.__all__ if not getattr(api, name).__doc__] == []
    with pytest.raises(AttributeError, match="nothing"):
        api.nothing  # noqa: B018


def test_verifying_a_pack_imports_no_pytorch() -> None:
    command = "from invarlock.api import verify_pack, verify_report; import sys; sys.exit('torch' in sys.modules)"

    succeed(python("-c", command, cwd=ROOT))


def test_importing_the_package_is_light() -> None:
    command = "import invarlock, sys; sys.exit(bool({'torch', 'numpy', 'jsonschema', 'nacl'} & set(sys.modules)))"

    succeed(python("-c", command, cwd=ROOT))


def test_the_package_verifies_packs_before_and_after_the_subpackage_of_that_name_is_imported(pack: Path) -> None:
    command = (
        "import invarlock, sys; first = invarlock.packer.verify(sys.argv[1]); "
        "import invarlock.packer.verify.result; second = invarlock.packer.verify(sys.argv[1]); "
        "third = invarlock.verify(sys.argv[1]); assert first == second == third; print(first.ok, first.verdict)"
    )

    assert succeed(python("-c", command, str(pack), cwd=ROOT)).stdout == "True PASS\n"


def test_a_changed_report_has_problems_and_no_verdict(pack: Path) -> None:
    path = next(pack.glob("reports/*/noop_control/*/evaluation.report.json"))
    path.write_text(re.sub(r'"ratio_vs_baseline": [0-9.]+', '"ratio_vs_baseline": 1.5', path.read_text("utf-8")))

    result = invarlock.verify(path)

    assert isinstance(result, api.ReportResult)
    assert (result.holds, result.verdict, result.code) == (False, None, 7)
    assert api.Code.NUMBER_DOES_NOT_FOLLOW in [problem.code for problem in result.problems]


def test_options_of_the_other_kind_are_refused(pack: Path) -> None:
    report = next(pack.glob("reports/*/*/*/evaluation.report.json"))

    with pytest.raises(api.InvarLockError, match="a pack with options of a report; leave them out"):
        invarlock.verify(pack, preset="preset.json")
    with pytest.raises(api.InvarLockError, match="a report with options of a pack; leave them out"):
        invarlock.verify(report, api.VerifyOptions())


@pytest.mark.slow
def test_a_gate_that_fails_is_a_problem_of_the_result(tmp_path: Path) -> None:
    base, text = tmp_path / "base", EMBEDDED / "text" / "austen_heldout.txt.xz"
    make_snapshot(EMBEDDED / "mistral-tiny", EMBEDDED / "tokenizer", base, REVISION)
    spec = parse_edit_spec("magnitude_prune:0.9:all")
    assert isinstance(spec, EditSpec)
    apply_edits(base, {tmp_path / "pruned": spec})

    found = invarlock.evaluate(
        base, tmp_path / "pruned", text, tmp_path / "out", seq_len=32, preview_windows=4, final_windows=16
    )

    assert (found.verdict, found.passed) == ("FAIL", False)
    assert {problem.code for problem in found.problems} == {api.Code.GATE_FAILED}
    assert "validation.primary_metric_acceptable" in [problem.field for problem in found.problems]
    assert invarlock.verify(tmp_path / "out", baseline_report=tmp_path / "out/baseline/evaluation.report.json").holds
    assert found.page.is_file()
    # the same baseline, its report named by its folder
    again = invarlock.evaluate(
        base,
        tmp_path / "pruned",
        text,
        tmp_path / "again",
        seq_len=32,
        preview_windows=4,
        final_windows=16,
        baseline_report=tmp_path / "out/baseline",
    )
    assert again.verdict == "FAIL"
    assert invarlock.verify(tmp_path / "again", baseline_report=tmp_path / "out/baseline").holds


def test_the_example_of_the_page_runs(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    base, spec = Path("base").absolute(), parse_edit_spec("quant_rtn:8:32:ffn")
    assert isinstance(spec, EditSpec)
    make_snapshot(EMBEDDED / "mistral-tiny", EMBEDDED / "tokenizer", base, REVISION)
    apply_edits(base, {base.with_name("quantised"): spec})
    Path("held-out.txt").write_bytes(lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes()))
    pack.rename("evidence_pack")
    example, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    found: dict[str, Any] = {}

    exec(compile(example, str(PAGE), "exec"), found)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "PASS"
    assert float(lines[0].split()[1]) == pytest.approx(1.0, abs=0.02)
    assert lines[1:] == ["output_exists 2"]
    assert found["result"].passed
    assert found["pack"].ok
