import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.cli import main
from invarlock.packer.verify import workers
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import TIME, content, edit_json, pack_files
from processes import packer

from invarlock.errors import DocumentError, InvarLockError, MissingFileError, ReportError, UsageError
from invarlock.problems import Code, Problem
from invarlock.staging import staging_folder


def test_the_same_content_and_key_give_the_same_bytes(run: Path, real_run: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_pack(tmp_path / name, content(run), real_run.key, TIME)

    assert pack_files(tmp_path / "one") == pack_files(tmp_path / "two")
    assert verify_pack(tmp_path / "one", VerifyOptions(strict=True)).code == 0


def test_a_pack_names_no_folder_of_the_machine_that_made_it(real_run: Any) -> None:
    text = b"".join(pack_files(real_run.pack).values())

    for folder in (real_run.directory, Path.home()):
        assert str(folder).encode() not in text
    # match whole words only, because base64 data may contain a short host name by chance
    assert not re.search(rb"(?<![\w+])" + re.escape(os.uname().nodename.encode()) + rb"(?![\w+])", text)


class AskedFor(dict[str, bytes]):
    """The files of a pack, which note how often each was asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(files)
        self.asked: Counter[str] = Counter()

    def __getitem__(self, path: str) -> bytes:
        self.asked[path] += 1
        return super().__getitem__(path)


def test_each_file_is_asked_for_once_so_that_not_all_need_be_in_memory(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    whole = content(run)
    files = AskedFor(whole.files)
    pages = {path for path in files if path.endswith("evaluation.html")}

    pack = build_pack(tmp_path / "pack", replace(whole, files=files), real_run.key, TIME).path

    assert files.asked == dict.fromkeys(files.keys() - pages, 1)
    assert pages
    assert {path: data for path, data in pack_files(pack).items() if path in files.asked} == {
        path: whole.files[path] for path in files.asked
    }


def test_reports_that_are_derived_in_processes_give_the_same_pack(
    run: Path, real_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = build_pack(tmp_path / "alone", content(run), real_run.key, TIME).path
    monkeypatch.setattr(workers, "MIN_REPORTS", 1)
    monkeypatch.setattr(workers, "BATCH_REPORTS", 1)
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)
    started: list[object] = []
    collect = workers._collect

    def noted(*given: Any) -> Any:
        started.append(given)
        return collect(*given)

    monkeypatch.setattr(workers, "_collect", noted)

    together = build_pack(tmp_path / "together", content(run), real_run.key, TIME).path

    assert started
    assert pack_files(together) == pack_files(alone)


def test_a_file_that_is_gone_before_it_is_packed_is_named_and_nothing_is_left(run: Path, tmp_path: Path) -> None:
    gathered = content(run)
    gone = next(run.glob("embedded__*/reports/noop_control/run_1/runtime.manifest.json"))
    gone.unlink()
    before = set(tmp_path.iterdir())

    with pytest.raises(MissingFileError) as caught:
        build_pack(tmp_path / "out", gathered, None, TIME)

    assert str(gone) in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def test_a_material_may_come_from_a_pipe(run: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(pipe.write_bytes, b"noted")
        gathered = content(run, materials=[f"notes={pipe}"])

    pack = build_pack(tmp_path / "out", gathered, None, TIME).path

    assert (pack / "metadata/materials/notes").read_bytes() == b"noted"


def test_an_existing_folder_is_never_written_to(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(UsageError, match="already exists") as caught:
        build_pack(tmp_path / "out", content(run), None, TIME)
    assert caught.value.code is Code.OUTPUT_EXISTS
    assert list((tmp_path / "out").iterdir()) == []


def test_a_report_that_does_not_verify_stops_the_build_and_leaves_nothing(run: Path, tmp_path: Path) -> None:
    path = next(run.glob("embedded__*/reports/noop_control/run_1/evaluation.report.json"))
    report = json.loads(path.read_bytes())
    report["primary_metric"]["ratio_vs_baseline"] = 0.5
    path.write_text(json.dumps(report))
    before = set(tmp_path.iterdir())

    with pytest.raises(ReportError) as caught:
        build_pack(tmp_path / "out", content(run), None, TIME)
    first = caught.value.problems[0]
    assert (caught.value.code, caught.value.exit_code) == (Code.NOT_PACKED, 7)
    assert (first.code, first.field) == (Code.NUMBER_DOES_NOT_FOLLOW, "primary_metric.ratio_vs_baseline")
    assert set(tmp_path.iterdir()) == before


def test_a_report_of_a_run_needs_the_verdict_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(run.glob("embedded__*/reports/noop_control/run_1/evaluation.report.json"))

    assert main(["build", str(tmp_path / "pack"), "--report", str(path)]) == 2

    assert "a case of a run (suite smoke); give the run's verdict with --final-verdict" in capsys.readouterr().err
    assert not (tmp_path / "pack").exists()


def test_a_verdict_that_does_not_follow_stops_the_build(run: Path, tmp_path: Path) -> None:
    path = run / "reports" / "final_verdict.json"
    path.write_text(path.read_text().replace('"clean_total": 1', '"clean_total": 2'))

    with pytest.raises(ReportError) as caught:
        build_pack(tmp_path / "out", content(run), None, TIME)
    assert caught.value.problems == (
        Problem(Code.RESULT_DOES_NOT_FOLLOW, "final_verdict.json", "counts.clean_total", "2, derived 1"),
    )
    assert not (tmp_path / "out").exists()


def test_a_report_without_its_runtime_manifest_is_not_packed(run: Path) -> None:
    next(run.glob("embedded__*/reports/noop_control/run_1/runtime.manifest.json")).unlink()

    with pytest.raises(MissingFileError, match=r"runtime\.manifest\.json: no such file"):
        content(run)


@pytest.mark.parametrize(
    ("file", "error", "code"),
    [
        ("*/reports/noop_control/run_1/evaluation.report.json", ReportError, Code.REPORT_MALFORMED),
        ("*/baseline/evaluation.report.json", ReportError, Code.REPORT_MALFORMED),
        ("state/scenarios.json", DocumentError, Code.DOCUMENT_MALFORMED),
    ],
)
def test_a_document_of_another_format_is_not_packed(
    file: str, error: type[InvarLockError], code: Code, run: Path
) -> None:
    (path,) = run.glob(file)
    edit_json(path, lambda document: document.update(more=1))

    with pytest.raises(error, match=path.name) as caught:
        content(run)

    assert {problem.code for problem in caught.value.problems} == {code}


def test_what_a_killed_builder_left_is_removed_and_what_a_live_one_has_is_kept(run: Path, tmp_path: Path) -> None:
    dead = tmp_path / ".out.staging-00000000"
    (dead / "reports").mkdir(parents=True)
    with staging_folder(tmp_path / "other") as alive:
        build_pack(tmp_path / "out", content(run), None, TIME)

        assert not dead.exists()
        assert alive.exists()
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_a_verdict_that_is_in_no_run_directory_needs_its_manifest_named(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "final_verdict.json"
    alone.parent.mkdir()
    alone.write_bytes((run / "reports" / "final_verdict.json").read_bytes())

    done = packer("build", tmp_path / "out", "--final-verdict", alone, "--report", tmp_path / "none.json")

    assert (done.returncode, done.stderr.count("\n"), "--scenarios" in done.stderr) == (2, 1, True)
    assert not (tmp_path / "out").exists()


def build_as_json(run: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Build a pack of a run with the command line; return the exit code and the printed JSON document."""
    reports = sorted(map(str, run.glob("embedded__*/reports/**/evaluation.report.json")))
    verdict = str(run / "reports" / "final_verdict.json")
    code = main(["build", str(out), "--final-verdict", verdict, "--report", *reports, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_result_of_a_build_is_available_as_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, built = build_as_json(run, tmp_path / "out", capsys)

    assert (code, built["ok"], built["pack"], built["verdict"]) == (0, True, str(tmp_path / "out"), "PASS")

    path = next(run.glob("embedded__*/reports/noop_control/run_1/evaluation.report.json"))
    report = json.loads(path.read_bytes())
    report["primary_metric"]["ratio_vs_baseline"] = 0.5
    path.write_text(json.dumps(report))
    code, refused = build_as_json(run, tmp_path / "other", capsys)

    assert (code, refused["ok"], refused["exit_code"], refused["code"]) == (7, False, 7, "not_packed")
    assert {
        "code": "number_does_not_follow",
        "where": "reports/embedded__mistral-tiny/noop_control/run_1/evaluation.report.json",
        "field": "primary_metric.ratio_vs_baseline",
        "message": "0.5, derived 1.0",
    } in refused["errors"]
