import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_records import made_records
from model_signers import make_key, sign_with_key
from processes import packer, succeed
from safetensors.torch import load_file, save_file
from shipped_checkpoints import restore, write_baseline

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.model_signatures import parse_signature, verify_signature
from invarlock.jsonio import dump_json
from invarlock.problems import Code

ROOT = Path(__file__).parents[3]


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def edit(text: str) -> EditSpec:
    spec = parse_edit_spec(text)
    assert isinstance(spec, EditSpec)
    return spec


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Return a folder with a baseline, and three subjects of one name.

    They are a harmless edit, a destructive edit, and the baseline's weights with the ids of two tokens swapped in the
    tokenizer.
    """
    folder = tmp_path / "checkpoints"
    base = folder / "base"
    base.mkdir(parents=True)
    for part in ("mistral-tiny", "tokenizer"):
        for path in (ROOT / "suites/embedded" / part).iterdir():
            shutil.copy(path, base)
    apply_edits(
        base,
        {
            folder / "good" / "mine": edit("quant_rtn:8:128:all"),
            folder / "magnitude_prune" / "mine": edit("magnitude_prune:0.9:all"),
        },
    )
    strange = Path(shutil.copytree(base, folder / "strange" / "mine"))
    tokenizer = load(strange / "tokenizer.json")
    tokens = tokenizer["model"]["vocab"]
    tokens["a"], tokens["e"] = tokens["e"], tokens["a"]
    (strange / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.slow
def test_a_gguf_file_and_its_folder_are_cases_of_a_run(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    base = write_baseline("mistral-tiny", tmp_path / "base")
    folder = restore("gguf-q4_0", tmp_path / "gguf-folder")
    file = Path(shutil.copy(folder / "model.gguf", tmp_path / "mine-Q4_0.gguf"))

    ran = run_pytest(
        "-m", "byoe", "--baseline", str(base), f"--subject={folder}", f"--subject={file}", "-n", "1"
    )  # fmt: skip

    assert ran.status == 0, ran.output
    assert "passed  base  gguf-folder  ratio 1.0" in ran.output
    assert "passed  base  mine-Q4_0  ratio 1.0" in ran.output
    succeed(packer("verify", ran.pack, "--strict"))
    assert not list(ran.pack.rglob("*.gguf"))


def test_checkpoints_of_a_user_are_the_cases_of_a_run(
    run_pytest: Callable[..., Any], checkpoints: Path, tmp_path: Path
) -> None:
    # without its own tokenizer, the subject uses the baseline's
    (checkpoints / "good/mine/tokenizer.json").unlink()
    (checkpoints / "good/mine/tokenizer_config.json").unlink()
    before = {path: path.read_bytes() for path in checkpoints.rglob("*") if path.is_file()}
    arguments = ("-m", "byoe", "--baseline", str(checkpoints / "base"))
    subjects = [f"--subject={checkpoints / name / 'mine'}" for name in ("good", "magnitude_prune", "strange")]

    ran = run_pytest(*arguments, *subjects, "-n", "1")

    assert ran.status == 1, ran.output
    assert "scored on texts that ship with the suites (austen and melville)" in ran.output
    assert "passed  base  mine  ratio " in ran.output
    assert "FAILED  base  mine-2  ratio " in ran.output
    assert "must pass, but primary_metric_acceptable" in ran.output
    assert "FAILED  base  mine-3  ratio 1.000" in ran.output
    assert {path: path.read_bytes() for path in checkpoints.rglob("*") if path.is_file()} == before
    # the pack verifies, and names the checkpoints but not their paths
    succeed(packer("verify", ran.pack, "--strict"))
    manifest = load(ran.pack / "metadata/scenarios.json")
    assert manifest["selection"]["cases"] == [
        {"model": "byoe/base", "run": 1, "scenario": "mine"},
        {"model": "byoe/base", "run": 1, "scenario": "mine-2"},
        {"model": "byoe/base", "run": 1, "scenario": "mine-3"},
    ]
    custom = {"kind": "brought", "edit_label": "custom"}
    inferred = {"kind": "brought", "edit_label": "magnitude_prune", "edit_label_source": "inferred"}
    assert [row["generation"] for row in manifest["scenarios"]] == [custom, inferred, custom]
    folder = ran.pack / "reports/byoe__base/mine/run_1"
    assert load(folder / "evaluation.report.json")["edit"] == {
        "name": "custom",
        "label": "custom",
        "spec": "custom",
        "parameters": {},
    }
    pruned = load(ran.pack / "reports/byoe__base/mine-2/run_1/evaluation.report.json")
    assert (pruned["edit"]["label"], pruned["edit"]["label_source"]) == ("magnitude_prune", "inferred")
    strange = load(ran.pack / "reports/byoe__base/mine-3/run_1/evaluation.report.json")
    assert [row["kind"] for row in strange["invariants"]["violations"]] == ["tokenizer"]
    metadata = load(folder / "edit_metadata.json")
    assert metadata["edit_label"] == "custom"
    assert metadata["coverage"]["edited_tensors"] == 28
    assert metadata["edit_semantics"] == "made outside of InvarLock, by an edit that is not known"
    for path in ran.pack.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path

    # unchanged subjects are kept; a changed subject is measured again
    shutil.rmtree(ran.pack)
    shutil.rmtree(checkpoints / "magnitude_prune/mine")
    shutil.copytree(checkpoints / "good/mine", checkpoints / "magnitude_prune/mine")
    (checkpoints / "strange/mine/tokenizer.json").unlink()
    (checkpoints / "strange/mine/tokenizer_config.json").unlink()
    resumed = run_pytest(*arguments, *subjects, "--resume")

    assert resumed.status == 0, resumed.output
    assert "kept" in (ran.directory / "logs/base-mine-run1.log").read_text()
    stale = {path.parent.parent.name for path in (ran.directory / "byoe__base/reports").rglob("*.json.stale")}
    assert stale == {"mine-2", "mine-3"}
    # with the baseline's tokenizer, this subject is identical to the baseline
    same = load(ran.directory / "byoe__base/reports/mine-3/run_1/evaluation.report.json")
    assert same["edit"] == {"name": "noop", "label": "noop", "spec": "noop", "parameters": {}}
    succeed(packer("verify", ran.pack, "--strict"))


def test_folders_that_are_no_checkpoints_are_refused_up_front_each_on_a_line(
    run_pytest: Callable[..., Any], checkpoints: Path, tmp_path: Path
) -> None:
    (checkpoints / "base/tokenizer.json").unlink()
    (checkpoints / "base/tokenizer_config.json").unlink()
    with (checkpoints / "magnitude_prune/mine/model.safetensors").open("r+b") as stream:
        stream.truncate(1000)
    given = [f"--subject={checkpoints / name}" for name in ("absent", "magnitude_prune/mine", "good/mine")]

    ran = run_pytest(f"--baseline={checkpoints / 'base'}", *given)

    assert ran.status == 4
    assert [line.partition(": ")[0] for line in ran.output.splitlines() if line] == [
        "ERROR",
        "--subject",
        "--subject",
    ]
    assert f"--subject: {checkpoints / 'absent'}: no such folder; give a checkpoint" in ran.output
    assert f"--baseline: {checkpoints / 'base'}: no tokenizer files" in ran.output
    assert ran.output.count(f"[{Code.SUBJECTS_UNUSABLE}]") == 3
    assert not ran.directory.exists()


def test_a_model_of_a_slot_does_not_replace_the_baseline(run_pytest: Callable[..., Any], checkpoints: Path) -> None:
    both = ("--baseline", str(checkpoints / "base"), "--subject", str(checkpoints / "good/mine"))

    ran = run_pytest("-m", "byoe", *both, "--collect-only", MODEL_1=str(checkpoints / "magnitude_prune/mine"))

    assert ran.status == 4
    assert "MODEL_1: -m byoe only uses the model of --baseline" in ran.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "byoe"), "-m byoe: needs --baseline FOLDER and at least one --subject FOLDER"),
        (("--subject", "mine"), "-m byoe: needs --baseline FOLDER and at least one --subject FOLDER"),
        (
            ("-m", "smoke", "--baseline", "base", "--subject", "mine"),
            "--baseline: -m selects the suite smoke, which has its own models; use -m byoe",
        ),
        (("-m", "byoe", "--edit-label", "my edit"), "--edit-label: 'my edit' is not allowed (use a name of"),
    ],
)
def test_a_run_of_own_checkpoints_names_what_it_needs(
    run_pytest: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    ran = run_pytest(*arguments)

    assert ran.status == 4
    assert message in ran.output


def test_results_on_tasks_next_to_a_subject_are_sealed_in_the_pack(
    run_pytest: Callable[..., Any], checkpoints: Path
) -> None:
    (checkpoints / "good/mine/task_records.json").write_bytes(dump_json(made_records(lost=10)))
    arguments = (
        "-m",
        "byoe",
        "--baseline",
        str(checkpoints / "base"),
        "--subject",
        str(checkpoints / "good/mine"),
    )

    ran = run_pytest(*arguments)

    assert ran.status == 0, ran.output
    report = load(ran.pack / "reports/byoe__base/mine/run_1/evaluation.report.json")
    assert report["tasks"]["overall"]["flips"] == {"lost": 10, "gained": 0}
    assert report["task_records"] == made_records(lost=10)
    succeed(packer("verify", ran.pack, "--strict"))

    # with other results, the report is made again
    (checkpoints / "good/mine/task_records.json").write_bytes(dump_json(made_records(lost=100)))
    shutil.rmtree(ran.pack)
    resumed = run_pytest(*arguments, "--resume")

    assert resumed.status == 1, resumed.output
    assert "tasks_regression_acceptable" in resumed.output


@pytest.mark.slow
def test_a_declared_change_of_structure_applies_to_a_run(run_pytest: Callable[..., Any], tmp_path: Path) -> None:
    base, subject = write_baseline("mistral-tiny", tmp_path / "base"), tmp_path / "mine"
    shutil.copytree(base, subject)
    tensors = load_file(base / "model.safetensors")
    name = "model.embed_tokens.weight"
    for padded in {name, "lm_head.weight"} & tensors.keys():
        tensors[padded] = torch.cat([tensors[padded], tensors[padded][:8]])
    save_file(tensors, subject / "model.safetensors", metadata={"format": "pt"})
    config = load(subject / "config.json")
    (subject / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 8}))
    arguments = ("-m", "byoe", f"--baseline={base}", f"--subject={subject}")

    ran = run_pytest(*arguments, "--expect", "vocabulary+8")

    assert ran.status == 0, ran.output
    report = load(ran.pack / "reports/byoe__base/mine/run_1/evaluation.report.json")
    assert report["edit"]["expected"] == ["vocabulary+8"]
    (row,) = load(ran.pack / "metadata/scenarios.json")["scenarios"]
    assert row["generation"]["expected"] == ["vocabulary+8"]
    succeed(packer("verify", ran.pack, "--strict"))

    # with another declaration, it is a different run
    shutil.rmtree(ran.pack)
    resumed = run_pytest(*arguments, "--resume")

    assert resumed.status == 4, resumed.output
    assert "is a different run" in resumed.output


@pytest.mark.slow
def test_the_model_signatures_of_a_run_are_verified_and_recorded(
    run_pytest: Callable[..., Any], checkpoints: Path, tmp_path: Path
) -> None:
    base, subject = checkpoints / "base", checkpoints / "good/mine"
    private, public = make_key(tmp_path, "maker")
    sign_with_key(base, private)
    sign_with_key(subject, private)
    signed = tuple(f"--model-signature={side}=key:{public}" for side in ("baseline", "subject"))
    arguments = ("-m", "byoe", f"--baseline={base}", f"--subject={subject}")

    ran = run_pytest(*arguments, *signed)

    assert ran.status == 0, ran.output
    (case,) = ran.pack.glob("reports/**/evaluation.report.json")
    report = load(case)
    (row,) = load(ran.pack / "metadata/scenarios.json")["scenarios"]
    found = {"baseline": report["baseline_ref"]["model_signature"], "subject": report["subject"]["model_signature"]}
    assert row["generation"]["model_signatures"] == found
    assert found["subject"] == verify_signature(subject, parse_signature(f"subject=key:{public}")).document()
    assert found["baseline"]["digest"] != found["subject"]["digest"]
    succeed(packer("verify", ran.pack, "--strict"))

    # a file that was changed after it was declared
    shutil.rmtree(ran.pack)
    (subject / "config.json").write_text((subject / "config.json").read_text() + "\n")
    refused = run_pytest(*arguments, *signed)
    assert refused.status == 4, refused.output
    assert "model signature does not hold" in refused.output


@pytest.mark.parametrize(
    ("given", "words"), [(["depth=3"], "vocabulary+8"), (["layers=2", "layers-1"], "about the same")]
)
def test_a_declaration_without_content_is_refused_before_a_run(
    run_pytest: Callable[..., Any], checkpoints: Path, given: list[str], words: str
) -> None:
    options = [part for text in given for part in ("--expect", text)]

    ran = run_pytest(
        "-m", "byoe", f"--baseline={checkpoints / 'base'}", f"--subject={checkpoints / 'good/mine'}", *options
    )

    assert ran.status == 4, ran.output
    assert words in ran.output
