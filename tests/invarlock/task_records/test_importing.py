"""Files that the real tools wrote are read and paired; what does not pair is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_files import change_rows, restore_files, samples_file

from invarlock.cli import main
from invarlock.errors import DocumentError, InvarLockError, MissingFileError
from invarlock.jsonio import check_schema, dump_json, read_json
from invarlock.problems import Code
from invarlock.task_records.importing import import_records, read_records
from invarlock.task_records.record import ChosenMetric

WRONG = {"baseline": {3, 8, 21}, "subject": {3, 5, 13, 21, 22, 34, 39}}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return restore_files(tmp_path / "kept")


def lm_eval(kept: Path, metric: str | None = None) -> Any:
    baseline, subject = ([kept / "lm_eval" / side] for side in ("baseline", "subject"))
    return import_records(baseline, subject, ChosenMetric.parse(metric))


def inspect(kept: Path, suffix: str = "json", metric: str | None = None) -> Any:
    baseline, subject = ([kept / "inspect" / f"{side}.{suffix}"] for side in ("baseline", "subject"))
    return import_records(baseline, subject, ChosenMetric.parse(metric))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_of_lm_eval_are_read_as_the_tool_scored_them(kept: Path) -> None:
    document = lm_eval(kept)

    check_schema(document, "task_records", where="records")
    assert [(row["task"], row["metric"]) for row in document["tasks"]] == [
        ("next_word", "exact_match,first-word"),
        ("next_words", "acc"),
    ]
    for side in ("baseline", "subject"):
        written = rows_of(samples_file(kept / "lm_eval" / side, "next_words"))
        scores = {str(row["doc_id"]): row["acc"] for row in written}
        task = document["tasks"][1]
        assert dict(zip(task["samples"], task[side]["scores"], strict=True)) == scores
        assert task[side]["correct"] == [scores[name] == 1 for name in task["samples"]]
    assert len(set(document["tasks"][1]["prompts"])) == 40
    assert document["sources"]["subject"][0]["name"].startswith("samples_next_word_")


def test_another_metric_and_filter_can_be_chosen(kept: Path) -> None:
    (task,) = import_records(
        [samples_file(kept / "lm_eval" / "baseline", "next_words")],
        [samples_file(kept / "lm_eval" / "subject", "next_words")],
        ChosenMetric.parse("acc_norm"),
    )["tasks"]
    written = rows_of(samples_file(kept / "lm_eval" / "subject", "next_words"))
    assert task["metric"] == "acc_norm"
    assert sum(task["subject"]["scores"]) == sum(row["acc_norm"] for row in written)

    (word,) = import_records(
        [samples_file(kept / "lm_eval" / "baseline", "next_word")],
        [samples_file(kept / "lm_eval" / "subject", "next_word")],
        ChosenMetric.parse("exact_match,whole"),
    )["tasks"]
    assert word["metric"] == "exact_match,whole"


@pytest.mark.parametrize("suffix", ["json", "eval"])
def test_logs_of_inspect_are_read_as_the_tool_scored_them(kept: Path, suffix: str) -> None:
    (task,) = inspect(kept, suffix)["tasks"]

    assert (task["task"], task["metric"], task["samples"]) == ("sevens", "includes", [str(n) for n in range(1, 41)])
    for side, wrong in WRONG.items():
        assert [n for n, right in enumerate(task[side]["correct"], 1) if not right] == sorted(wrong)


def test_both_formats_of_inspect_have_the_same_content(kept: Path) -> None:
    json_log, archive = inspect(kept, "json"), inspect(kept, "eval")

    assert json_log["tasks"] == archive["tasks"]
    assert inspect(kept, "eval", "closeness")["tasks"][0]["baseline"]["correct"] is None


def test_no_prompt_and_no_answer_is_in_the_records(kept: Path) -> None:
    text = dump_json(lm_eval(kept)) + dump_json(inspect(kept))

    for row in rows_of(samples_file(kept / "lm_eval" / "baseline", "next_words")):
        assert row["doc"]["context"][:30].encode() not in text
    assert b"What is" not in text
    assert b"it is" not in text


def lost(rows: list[dict[str, Any]]) -> None:
    del rows[7]


def twice(rows: list[dict[str, Any]]) -> None:
    rows.append(rows[0])


def another_prompt(rows: list[dict[str, Any]]) -> None:
    rows[3]["arguments"]["gen_args_0"]["arg_0"] += "!"


def another_target(rows: list[dict[str, Any]]) -> None:
    rows[3]["target"] = "9"


def renamed(rows: list[dict[str, Any]]) -> None:
    rows[3]["doc_id"] = 4000


def out_of_range(rows: list[dict[str, Any]]) -> None:
    rows[3]["acc"] = 37.5


def not_a_number(rows: list[dict[str, Any]]) -> None:
    rows[3]["acc"] = float("nan")


def no_score(rows: list[dict[str, Any]]) -> None:
    del rows[3]["acc"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lost, "1 samples stand on one side only, such as 7 of the baseline"),
        (twice, "the subject has sample 0 twice"),
        (another_prompt, "1 samples have another prompt on each side, such as 3"),
        (another_target, "1 samples have another right answer on each side, such as 3"),
        (renamed, "2 samples stand on one side only"),
        (out_of_range, r"line 4: a score is 37\.5, not from 0 to 1"),
        (not_a_number, "line 4: a score is nan, not from 0 to 1"),
        (no_score, "line 4: no 'acc'"),
    ],
)
def test_samples_that_do_not_pair_are_refused(
    kept: Path, change: Callable[[list[dict[str, Any]]], None], words: str
) -> None:
    change_rows(samples_file(kept / "lm_eval" / "subject", "next_words"), change)

    with pytest.raises(DocumentError, match=words):
        lm_eval(kept)


def test_the_order_of_the_samples_does_not_matter(kept: Path) -> None:
    before = lm_eval(kept)["tasks"]
    change_rows(samples_file(kept / "lm_eval" / "subject", "next_words"), list.reverse)

    assert lm_eval(kept)["tasks"] == before


def test_names_of_arguments_do_not_matter(kept: Path) -> None:
    def as_lists(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["arguments"] = [list(one.values()) for one in row["arguments"].values()]

    before = lm_eval(kept)["tasks"]
    change_rows(samples_file(kept / "lm_eval" / "subject", "next_words"), as_lists)

    assert lm_eval(kept)["tasks"] == before


def test_a_task_on_one_side_only_and_two_runs_of_a_task_are_refused(kept: Path) -> None:
    subject = samples_file(kept / "lm_eval" / "subject", "next_words")
    shutil.copyfile(subject, subject.with_name("samples_next_words_2026-01-01T00-00-00.000000.jsonl"))
    with pytest.raises(DocumentError, match="task next_words: the subject has two files of it"):
        lm_eval(kept)

    for path in subject.parent.glob("samples_next_words_*"):
        path.unlink()
    with pytest.raises(
        DocumentError, match="task next_words: the baseline has results on it, the subject has none"
    ) as caught:
        lm_eval(kept)
    assert caught.value.code is Code.TASK_RESULTS_DIFFER


def test_files_of_two_tools_are_refused(kept: Path) -> None:
    with pytest.raises(DocumentError, match=r"of lm-evaluation-harness, and .* of inspect-ai"):
        import_records([kept / "inspect/baseline.json"], [kept / "lm_eval/subject"])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("status", "error", "its status is 'error', not success"),
        ("samples", [], "it has no sample"),
        ("samples", [7], "sample 1: 7 where a table is needed"),
        ("eval", None, "where a table is needed"),
    ],
)
def test_a_log_of_a_run_that_did_not_end_is_refused(kept: Path, field: str, value: Any, words: str) -> None:
    path = kept / "inspect/subject.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), field: value}))

    with pytest.raises(DocumentError, match=words):
        inspect(kept)


def test_a_sample_without_the_score_is_refused(kept: Path) -> None:
    path = kept / "inspect/subject.json"
    document = json.loads(path.read_bytes())
    del document["samples"][4]["scores"]["includes"]
    path.write_text(json.dumps(document))

    with pytest.raises(DocumentError, match="no score 'includes'; it has closeness"):
        inspect(kept)


def test_messages_are_compared_without_their_ids_and_epochs_are_samples_of_their_own(kept: Path) -> None:
    for side in ("baseline", "subject"):
        path = kept / f"inspect/{side}.json"
        document = json.loads(path.read_bytes())
        for sample in document["samples"]:
            sample["input"] = [{"id": f"{side}{sample['id']}", "role": "user", "content": sample["input"]}]
        document["samples"] += [{**sample, "epoch": 2} for sample in document["samples"]]
        path.write_text(json.dumps(document))

    (task,) = inspect(kept)["tasks"]

    assert len(task["samples"]) == 80
    assert task["samples"][0] == "1 epoch 1"


@pytest.mark.parametrize("cut", [10, 200, 5000])
def test_an_archive_that_is_cut_off_is_refused(kept: Path, cut: int) -> None:
    path = kept / "inspect/subject.eval"
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(DocumentError, match=r"subject\.eval"):
        inspect(kept, "eval")


def test_a_damaged_sample_of_an_archive_is_refused(kept: Path) -> None:
    path = kept / "inspect/subject.eval"
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("samples/9_epoch_1.json").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 80 : offset + 120] = bytes(40)
    path.write_bytes(data)

    with pytest.raises(DocumentError, match=r"subject\.eval"):
        inspect(kept, "eval")


def test_an_archive_without_zstandard_is_read_too(kept: Path, tmp_path: Path) -> None:
    log = json.loads((kept / "inspect/subject.json").read_bytes())
    path = tmp_path / "subject.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({key: value for key, value in log.items() if key != "samples"}))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))

    found = import_records([kept / "inspect/baseline.eval"], [path])

    assert found["tasks"] == inspect(kept)["tasks"]


def test_missing_files_and_files_without_results_are_refused(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()

    with pytest.raises(MissingFileError, match="no such file"):
        import_records([tmp_path / "none.eval"], [kept / "inspect/subject.eval"])
    with pytest.raises(MissingFileError, match="no samples_"):
        import_records([tmp_path / "empty"], [kept / "inspect/subject.eval"])
    with pytest.raises(DocumentError, match="neither samples of lm_eval"):
        import_records([tmp_path / "notes.txt"], [kept / "inspect/subject.eval"])
    with pytest.raises(DocumentError, match=r"no metric .f1.; it has acc, acc_norm"):
        import_records(
            [samples_file(kept / "lm_eval" / "baseline", "next_words")],
            [samples_file(kept / "lm_eval" / "subject", "next_words")],
            ChosenMetric("f1"),
        )


def test_the_command_writes_records_that_are_read_again(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "records.json"
    arguments = ["records", "import", "--baseline", str(kept / "inspect/baseline.eval"), "--subject"]
    arguments += [str(kept / "inspect/subject.eval"), "--output", str(output)]

    assert main(arguments) == 0
    assert "sevens, includes: 40 samples, 0.925 to 0.825" in capsys.readouterr().out
    assert read_records(output) == inspect(kept, "eval")
    assert main(arguments) == 2  # it exists


def test_records_that_contradict_themselves_are_refused(kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    document = inspect(kept)
    document["tasks"][0]["subject"]["correct"][0] = False
    path.write_bytes(dump_json(document))

    with pytest.raises(DocumentError, match=r"correct: does not follow from the scores"):
        read_records(path)
    assert read_json(path) == document


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restore_files(tmp_path_factory.mktemp("originals"))


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(originals: Path, data: st.DataObject) -> None:
    path = data.draw(
        st.sampled_from(
            [
                originals / "inspect/subject.eval",
                originals / "inspect/subject.json",
                samples_file(originals / "lm_eval/subject", "next_word"),
            ]
        )
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    damaged = path.parent.parent / "damaged" / path.name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(content)
    baseline = path.parent / path.name.replace("subject", "baseline")

    with suppress(InvarLockError):
        import_records([baseline if baseline.is_file() else path], [damaged])
