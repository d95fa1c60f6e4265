"""The public Python API: the example of ``docs/api.md`` runs, and verifying needs no PyTorch."""

import lzma
import re
from pathlib import Path
from typing import Any

import pytest
from processes import python, succeed

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
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    found: dict[str, Any] = {}

    exec(compile(example, str(PAGE), "exec"), found)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "True"
    assert float(lines[0].split()[1]) == pytest.approx(1.0, abs=0.02)
    assert lines[1:] == ["output_exists 2"]
    assert found["result"].holds
