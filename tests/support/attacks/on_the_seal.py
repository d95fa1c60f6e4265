"""Attacks by somebody with the maker's key on checksums and manifest, which are signed again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.checksums import write_checksums
from packs import (
    VERDICT,
    edit_json,
    pack_files,
    sha256,
)

from attacks.catalogue import ZEROS, Act, Attack, catalogue

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


def line(text: str) -> Act:
    def add(pack: Path) -> None:
        with (pack / "checksums.sha256").open("a") as stream:
            stream.write(f"{text}\n")

    return add


for case, text, reason in (
    ("an_absolute_path", f"{ZEROS}  /etc/passwd", "it is absolute"),
    ("a_path_out_of_the_pack", f"{ZEROS}  ../outside", "'..' segment"),
    ("a_path_with_a_dot", f"{ZEROS}  a/./b", "'.' or '..' segment"),
    ("a_path_with_two_slashes", f"{ZEROS}  a//b", "empty, '.'"),
    ("a_path_with_a_backslash", f"{ZEROS}  a\\b", "backslash"),
    ("a_path_with_a_tab", f"{ZEROS}  a\tb", "control character"),
    ("a_path_with_a_bidirectional_override", f"{ZEROS}  a\u202eb", "control character"),
    ("a_path_twice", f"{ZEROS}  README.md", "appears twice"),
    ("a_path_in_another_case", f"{ZEROS}  ReadMe.md", "differ only by case"),
    ("a_path_in_another_normalisation", f"{ZEROS}  caf\u00e9\n{ZEROS}  cafe\u0301", "differ only by case"),
    ("a_control_file", f"{ZEROS}  manifest.json", "names the control file"),
    ("a_line_with_one_space", f"{ZEROS} README.md2", "is not a digest, two spaces and a path"),
    ("a_blank_line", "", "is not a digest, two spaces and a path"),
    ("a_short_digest", "abc  x", "is not a digest, two spaces and a path"),
    ("a_line_with_crlf", f"{ZEROS}  x\r", "control character"),
    ("a_path_of_a_thousand_segments", f"{ZEROS}  {'a/' * 1000}b", "it is longer than"),
    ("a_file_that_is_not_there", f"{ZEROS}  notes.txt", "notes.txt: missing"),
):
    ATTACKS[f"checksums_with_{case}"] = Attack(line(text), 6, reason, "manifest")


@attack(6, "its last line does not end", sealed="manifest")
def checksums_without_their_last_line_end(pack: Path) -> None:
    path = pack / "checksums.sha256"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))


@attack(6, "not UTF-8", sealed="manifest")
def checksums_that_are_not_text(pack: Path) -> None:
    (pack / "checksums.sha256").write_bytes(b"\xff\n")


@attack(6, f"{VERDICT}: not in checksums.sha256", sealed="manifest")
def a_verdict_that_is_not_sealed(pack: Path) -> None:
    digests = {path: sha256(data) for path, data in pack_files(pack).items() if "/" in path or path == "README.md"}
    del digests[VERDICT]
    (pack / "checksums.sha256").write_bytes(write_checksums(digests))


def manifest(change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / "manifest.json", change)


for case, edit, code, reason in (
    ("raising_the_level", lambda m: m["invocation"].pop("config_source"), 7, "evidence_level high is claimed, medium"),
    ("hiding_the_subject", lambda m: m.pop("subject"), 7, "evidence_level high is claimed, low"),
    ("with_more_clean_reports", lambda m: m["verification"].update(clean_reports=5), 7, "verification.clean_reports"),
    ("of_another_model", lambda m: m.update(model_list=["mistralai/Mistral-7B-v0.1"]), 7, "model_list"),
    ("of_another_suite", lambda m: m.update(suite="full"), 7, "suite: 'full', derived 'smoke'"),
    ("with_strict_assurance", lambda m: m["verification"].update(report_assurance="strict"), 7, "strict is claimed"),
    (
        "of_another_commit",
        lambda m: m["invocation"]["config_source"].update(commit="0" * 40),
        7,
        "config_source.commit",
    ),
    (
        "with_other_licences",
        lambda m: m["model_licenses"].update({"embedded/mistral-tiny": "MIT"}),
        7,
        "model_licenses",
    ),
    ("of_another_profile", lambda m: m["verification"].update(policy_profile="release"), 7, "policy_profile"),
    ("that_was_online", lambda m: m.update(network_mode="online"), 7, "network_mode"),
    (
        "with_more_windows",
        lambda m: m["invocation"]["parameters"]["final_windows"].update(value=400),
        7,
        "final_windows",
    ),
    (
        "with_an_absolute_reference",
        lambda m: m["subject"].update(path="/etc/passwd"),
        6,
        "which the pack does not have",
    ),
    ("with_a_reference_to_nothing", lambda m: m["subject"].update(path="results/none.json"), 6, "results/none.json"),
    (
        "with_a_digest_of_nothing",
        lambda m: m.update(subject={"digest": f"sha256:{ZEROS}"}),
        6,
        "subject: digest is that of no file",
    ),
    ("whose_subject_is_empty", lambda m: m.update(subject={}), 7, "evidence_level high is claimed, low"),
    ("whose_environment_is_empty", lambda m: m.update(environment={}), 7, "evidence_level high is claimed, medium"),
    ("of_another_model_by_half", lambda m: m.update(models=[{"model_id": "a/b"}]), 7, "models[0].model_id: 'a/b'"),
    ("with_a_licence_of_another_model", lambda m: m.update(model_licenses={"a/b": "MIT"}), 7, "model_licenses"),
    ("with_one_count_more", lambda m: m.update(verification={"stress_reports": 9}), 7, "verification.stress_reports"),
    (
        "of_a_review_that_was_none",
        lambda m: m["invocation"]["parameters"].update(release_review={"value": True}),
        7,
        "release_review is claimed",
    ),
    ("of_a_version_with_markup", lambda m: m.update(invarlock_version="1\n# <script>"), 4, "/invarlock_version"),
    ("of_a_long_suite", lambda m: m.update(suite="x" * 1000), 4, "/suite"),
    (
        "with_more_reports_than_there_can_be",
        lambda m: m["verification"].update(clean_reports=10**9),
        4,
        "/clean_reports",
    ),
    ("whose_subject_is_another_file", lambda m: m["subject"].update(path="README.md"), 7, "subject.path"),
):
    ATTACKS[f"a_manifest_{case}"] = Attack(manifest(edit), code, reason, "all")


def added(path: str, data: bytes) -> Act:
    def add(pack: Path) -> None:
        (pack / path).parent.mkdir(parents=True, exist_ok=True)
        (pack / path).write_bytes(data)

    return add


for case, path in (
    ("reports_in_another_case", "Reports/m/s/run_1/evaluation.html"),
    ("results_in_another_case", "RESULTS/summary.txt"),
    ("results_in_wide_letters", "\uff52esults/final_verdict.txt"),
    ("presets_in_another_case", "metadata/Presets/another.json"),
):
    ATTACKS[f"a_pack_with_{case}"] = Attack(added(path, b"PASS"), 7, f"{path}: differs from the name", "all")


@attack(7, "suite is claimed, the pack has no metadata/scenarios.json", sealed="all")
def a_pack_whose_reports_were_taken_out_and_whose_claims_stay(pack: Path) -> None:
    for folder in ("reports", "results", "baselines", "metadata"):
        shutil.rmtree(pack / folder)
    kept = ("format", "checksums_sha256", "suite", "evidence_level", "models", "verification")
    edit_json(pack / "manifest.json", lambda m: [m.pop(key) for key in [*m] if key not in kept])


@attack(7, "README.md: not what the manifest and the verdict give", sealed="all")
def a_pack_of_nothing_but_a_readme_that_says_pass(pack: Path) -> None:
    for folder in ("reports", "results", "baselines", "metadata"):
        shutil.rmtree(pack / folder)
    kept = ("format", "checksums_sha256")
    edit_json(pack / "manifest.json", lambda m: [m.pop(key) for key in [*m] if key not in kept])
