import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from invarlock.catalog.edit_labels import SubjectEdit
from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.checkpoints.editing import apply_edits
from invarlock.errors import DocumentError, UsageError
from invarlock.evaluation.request import EditDescription
from invarlock.evaluation.user_subjects import unchanged, user_subject_edit

NOOP = EditDescription("noop", "noop", "noop", {})
CUSTOM = EditDescription("custom", "custom", "custom", {})
A, B = (f"sha256:{digit * 64}" for digit in "ab")


@pytest.fixture
def baseline(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("llama")


@pytest.fixture
def subject(baseline: Path, tmp_path: Path) -> Path:
    apply_edits(baseline, {tmp_path / "mine": rtn()})
    return tmp_path / "mine"


def rtn() -> EditSpec:
    spec = parse_edit_spec("quant_rtn:4:32:ffn@layer=0")
    assert isinstance(spec, EditSpec)
    return spec


def test_an_edit_that_the_metadata_describes_is_that_edit(baseline: Path, subject: Path) -> None:
    edit = SubjectEdit("quant_rtn", "edit_metadata", rtn(), digest_checkpoint(baseline), digest_checkpoint(subject))

    edited, scope = user_subject_edit(subject, baseline, edit)

    assert edited == EditDescription("quant_rtn", "quant_rtn", str(rtn()), rtn().parameters)
    assert scope == "ffn@layer=0"


def test_a_label_alone_is_a_custom_edit(baseline: Path, subject: Path) -> None:
    edited, scope = user_subject_edit(subject, baseline, SubjectEdit("gptq", "inferred"))

    assert (edited, scope) == (EditDescription("custom", "gptq", "custom", {}, "inferred"), None)


def test_metadata_is_about_these_two_checkpoints(baseline: Path, subject: Path) -> None:
    before, after = digest_checkpoint(baseline), digest_checkpoint(subject)

    for digests, name in (((A, after), "baseline_digest"), ((before, A), "subject_digest")):
        with pytest.raises(DocumentError, match=name):
            user_subject_edit(subject, baseline, SubjectEdit("merge", "edit_metadata", None, *digests))


@pytest.mark.parametrize("source", ["given", "edit_metadata"])
def test_noop_is_the_baseline_and_nothing_else(baseline: Path, subject: Path, tmp_path: Path, source: str) -> None:
    same = Path(shutil.copytree(baseline, tmp_path / "same"))
    edit = SubjectEdit("noop", source)  # type: ignore[arg-type]

    assert user_subject_edit(same, baseline, edit) == (NOOP, None)
    with pytest.raises(UsageError, match="differs from its baseline"):
        user_subject_edit(subject, baseline, edit)


@pytest.mark.parametrize(
    ("edited", "digest", "then"),
    [
        (CUSTOM, A, NOOP),
        (CUSTOM, B, CUSTOM),
        (EditDescription("custom", "gptq", "custom", {}, "inferred"), A, NOOP),
        (
            EditDescription("custom", "gptq", "custom", {}, "given"),
            A,
            EditDescription("custom", "gptq", "custom", {}, "given"),
        ),
        (
            EditDescription("custom", "custom", "custom", {}, "given"),
            A,
            EditDescription("custom", "custom", "custom", {}, "given"),
        ),
        # an edit of weights that are its fixed point
        (EditDescription("quant_rtn", "quant_rtn", "quant_rtn:8:32:ffn", {}), A, None),
    ],
)
def test_the_baselines_bytes_are_no_edit_unless_the_user_says_so(
    edited: EditDescription, digest: str, then: EditDescription | None
) -> None:
    assert unchanged(edited, digest, A) == (edited if then is None else then)
