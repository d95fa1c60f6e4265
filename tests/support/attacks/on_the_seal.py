"""Attacks on the checksums and the manifest, which the attacker signs again with the maker's key."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.format.checksums import write_checksums
from packs import (
    VERDICT,
    edit_json,
    pack_files,
    sha256,
)

from attacks.catalogue import ZEROS, Act, Attack, catalogue
from invarlock.problems import Code

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


def line(text: str) -> Act:
    def add(pack: Path) -> None:
        with (pack / "checksums.sha256").open("a") as stream:
            stream.write(f"{text}\n")

    return add


for case, text, reason in (
    ("an_absolute_path", f"{ZEROS}  /etc/passwd", (Code.PATH_UNSAFE, "/etc/passwd", "")),
    ("a_path_out_of_the_pack", f"{ZEROS}  ../outside", (Code.PATH_UNSAFE, "../outside", "")),
    ("a_path_with_a_dot", f"{ZEROS}  a/./b", (Code.PATH_UNSAFE, "a/./b", "")),
    ("a_path_with_two_slashes", f"{ZEROS}  a//b", (Code.PATH_UNSAFE, "a//b", "")),
    ("a_path_with_a_backslash", f"{ZEROS}  a\\b", (Code.PATH_UNSAFE, "a\\b", "")),
    ("a_path_with_a_tab", f"{ZEROS}  a\tb", (Code.PATH_UNSAFE, "a\\tb", "")),
    ("a_path_with_a_bidirectional_override", f"{ZEROS}  a\u202eb", (Code.PATH_UNSAFE, "a\\u202eb", "")),
    ("a_path_twice", f"{ZEROS}  README.md", (Code.CHECKSUMS_MALFORMED, "checksums.sha256", None)),
    ("a_path_in_another_case", f"{ZEROS}  ReadMe.md", (Code.PATHS_COLLIDE, "checksums.sha256", "")),
    (
        "a_path_in_another_normalisation",
        f"{ZEROS}  caf\u00e9\n{ZEROS}  cafe\u0301",
        (Code.PATHS_COLLIDE, "checksums.sha256", ""),
    ),
    ("a_control_file", f"{ZEROS}  manifest.json", (Code.CHECKSUMS_MALFORMED, "checksums.sha256", None)),
    ("a_line_with_one_space", f"{ZEROS} README.md2", (Code.CHECKSUMS_MALFORMED, "checksums.sha256", None)),
    ("a_blank_line", "", (Code.CHECKSUMS_MALFORMED, "checksums.sha256", None)),
    ("a_short_digest", "abc  x", (Code.CHECKSUMS_MALFORMED, "checksums.sha256", None)),
    ("a_line_with_crlf", f"{ZEROS}  x\r", (Code.PATH_UNSAFE, "x\\r", "")),
    ("a_path_of_a_thousand_segments", f"{ZEROS}  {'a/' * 1000}b", (Code.PATH_UNSAFE, "a/" * 60, "")),
    ("a_file_that_is_not_there", f"{ZEROS}  notes.txt", (Code.SEALED_FILE_MISSING, "notes.txt", "")),
):
    ATTACKS[f"checksums_with_{case}"] = Attack(line(text), reason[0], reason[1], reason[2], "manifest")


@attack(Code.CHECKSUMS_MALFORMED, "checksums.sha256", sealed="manifest")
def checksums_without_their_last_line_end(pack: Path) -> None:
    path = pack / "checksums.sha256"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))


@attack(Code.CHECKSUMS_MALFORMED, "checksums.sha256", sealed="manifest")
def checksums_that_are_not_text(pack: Path) -> None:
    (pack / "checksums.sha256").write_bytes(b"\xff\n")


@attack(Code.FILE_NOT_SEALED, VERDICT, sealed="manifest")
def a_verdict_that_is_not_sealed(pack: Path) -> None:
    digests = {path: sha256(data) for path, data in pack_files(pack).items() if "/" in path or path == "README.md"}
    del digests[VERDICT]
    (pack / "checksums.sha256").write_bytes(write_checksums(digests))


def manifest(change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / "manifest.json", change)


for case, edit, reason in (
    (
        "raising_the_level",
        lambda m: m["invocation"].pop("config_source"),
        (Code.EVIDENCE_LEVEL_TOO_HIGH, "manifest.json", "evidence_level"),
    ),
    (
        "hiding_the_subject",
        lambda m: m.pop("subject"),
        (Code.EVIDENCE_LEVEL_TOO_HIGH, "manifest.json", "evidence_level"),
    ),
    (
        "with_more_clean_reports",
        lambda m: m["verification"].update(clean_reports=5),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "verification.clean_reports"),
    ),
    (
        "of_another_model",
        lambda m: m.update(model_list=["mistralai/Mistral-7B-v0.1"]),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "model_list[0]"),
    ),
    (
        "of_another_suite",
        lambda m: m.update(suite="full"),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "suite"),
    ),
    (
        "with_strict_assurance",
        lambda m: m["verification"].update(report_assurance="strict"),
        (Code.EVIDENCE_LEVEL_TOO_HIGH, "manifest.json", "verification.report_assurance"),
    ),
    (
        "of_another_commit",
        lambda m: m["invocation"]["config_source"].update(commit="0" * 40),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "invocation.config_source.commit"),
    ),
    (
        "with_other_licences",
        lambda m: m["model_licenses"].update({"embedded/mistral-tiny": "MIT"}),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "model_licenses.embedded/mistral-tiny"),
    ),
    (
        "of_another_profile",
        lambda m: m["verification"].update(policy_profile="release"),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "verification.policy_profile"),
    ),
    (
        "that_was_online",
        lambda m: m.update(network_mode="online"),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "network_mode"),
    ),
    (
        "with_more_windows",
        lambda m: m["invocation"]["parameters"]["final_windows"].update(value=400),
        (Code.SETTINGS_DIFFER, "manifest.json", "invocation.parameters.final_windows"),
    ),
    (
        "of_another_intent",
        lambda m: m["invocation"]["parameters"]["intent"].update(value="change"),
        (Code.SETTINGS_DIFFER, "manifest.json", "invocation.parameters.intent"),
    ),
    (
        "with_an_absolute_reference",
        lambda m: m["subject"].update(path="/etc/passwd"),
        (Code.REFERENCE_DANGLES, "manifest.json", "subject"),
    ),
    (
        "with_a_reference_to_nothing",
        lambda m: m["subject"].update(path="results/none.json"),
        (Code.REFERENCE_DANGLES, "manifest.json", "subject"),
    ),
    (
        "with_a_digest_of_nothing",
        lambda m: m.update(subject={"digest": f"sha256:{ZEROS}"}),
        (Code.REFERENCE_DANGLES, "manifest.json", "subject"),
    ),
    (
        "whose_subject_is_empty",
        lambda m: m.update(subject={}),
        (Code.EVIDENCE_LEVEL_TOO_HIGH, "manifest.json", "evidence_level"),
    ),
    (
        "whose_environment_is_empty",
        lambda m: m.update(environment={}),
        (Code.EVIDENCE_LEVEL_TOO_HIGH, "manifest.json", "evidence_level"),
    ),
    (
        "of_another_model_by_half",
        lambda m: m.update(models=[{"model_id": "a/b"}]),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "models[0].model_id"),
    ),
    (
        "with_a_licence_of_another_model",
        lambda m: m.update(model_licenses={"a/b": "MIT"}),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "model_licenses.a/b"),
    ),
    (
        "with_one_count_more",
        lambda m: m.update(verification={"stress_reports": 9}),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "verification.stress_reports"),
    ),
    (
        "of_a_review_that_was_none",
        lambda m: m["invocation"]["parameters"].update(release_review={"value": True}),
        (Code.REVIEW_NOT_SUPPORTED, "manifest.json", "invocation.parameters.release_review"),
    ),
    (
        "of_a_version_with_markup",
        lambda m: m.update(invarlock_version="1\n# <script>"),
        (Code.MANIFEST_MALFORMED, "manifest.json", "invarlock_version"),
    ),
    ("of_a_long_suite", lambda m: m.update(suite="x" * 1000), (Code.MANIFEST_MALFORMED, "manifest.json", "suite")),
    (
        "with_more_reports_than_there_can_be",
        lambda m: m["verification"].update(clean_reports=10**9),
        (Code.MANIFEST_MALFORMED, "manifest.json", "verification.clean_reports"),
    ),
    (
        "whose_subject_is_another_file",
        lambda m: m["subject"].update(path="README.md"),
        (Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "subject.path"),
    ),
):
    ATTACKS[f"a_manifest_{case}"] = Attack(manifest(edit), reason[0], reason[1], reason[2], "all")


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
    ATTACKS[f"a_pack_with_{case}"] = Attack(added(path, b"PASS"), Code.FILE_NAME_MISLEADS, path, sealed="all")


@attack(Code.MANIFEST_CLAIM_DOES_NOT_FOLLOW, "manifest.json", "suite", sealed="all")
def a_pack_whose_reports_were_taken_out_and_whose_claims_stay(pack: Path) -> None:
    for folder in ("reports", "results", "baselines", "metadata"):
        shutil.rmtree(pack / folder)
    kept = ("format", "checksums_sha256", "suite", "evidence_level", "models", "verification")
    edit_json(pack / "manifest.json", lambda m: [m.pop(key) for key in [*m] if key not in kept])


@attack(Code.README_DIFFERS, "README.md", sealed="all")
def a_pack_of_nothing_but_a_readme_that_says_pass(pack: Path) -> None:
    for folder in ("reports", "results", "baselines", "metadata"):
        shutil.rmtree(pack / folder)
    kept = ("format", "checksums_sha256")
    edit_json(pack / "manifest.json", lambda m: [m.pop(key) for key in [*m] if key not in kept])
