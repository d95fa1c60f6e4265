"""A catalogue of attacks: what is done to a pack, which exit code a receiver gets, and which message.

Each attack is a function of the pack's folder. Those that are sealed are made by somebody with the maker's key, who
makes checksums, references and signature fit again. The others are made by somebody without.
"""

import base64
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from invarlock.packer.checksums import write_checksums
from invarlock.packer.keys import SigningKey, fingerprint, make_signing_key, public_pem
from invarlock.packer.limits import MAX_MANIFEST_BYTES
from invarlock.packer.signature import sign_manifest
from packs import (
    BASELINE,
    FAULT,
    MODEL,
    REPORT,
    SCENARIOS,
    STRESS,
    VERDICT,
    edit_json,
    forge,
    messages,
    pack_files,
    seal,
    sha256,
    sign,
    strict,
)

from invarlock.jsonio import dump_json
from invarlock.reports.derivation import compose, strip

Act = Callable[[Path], object]
# What is made to fit after the act: nothing; the manifest and its signature; checksums and references as well.
Sealed = Literal["no", "manifest", "all"]


@dataclass(frozen=True)
class Attack:
    """What is done, by whom, and what a receiver is told."""

    act: Act
    code: int
    message: str
    sealed: Sealed


ATTACKS: dict[str, Attack] = {}


def attack(code: int, message: str, *, sealed: Sealed = "no") -> Callable[[Act], Act]:
    """Add a function to the catalogue under its name."""

    def add(act: Act) -> Act:
        assert act.__name__ not in ATTACKS
        ATTACKS[act.__name__] = Attack(act, code, message, sealed)
        return act

    return add


# --- without the maker's key: files -----------------------------------------------------------------------------------


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x01
    path.write_bytes(data)


@attack(6, f"{REPORT}: its bytes are not those of its checksum")
def a_byte_of_a_report_flipped(pack: Path) -> None:
    flip(pack / REPORT, 5000)


@attack(6, f"{BASELINE}: its bytes are not those of its checksum")
def a_byte_of_a_baseline_flipped(pack: Path) -> None:
    flip(pack / BASELINE, 5000)


@attack(6, "README.md: its bytes are not those of its checksum")
def a_byte_of_the_readme_flipped(pack: Path) -> None:
    flip(pack / "README.md", 100)


@attack(6, "results/final_verdict.txt: its bytes are not those of its checksum")
def a_byte_of_the_verdict_text_flipped(pack: Path) -> None:
    flip(pack / "results/final_verdict.txt", 3)


@attack(6, "checksums.sha256: not the file that checksums_sha256_digest promises")
def a_byte_of_the_checksums_flipped(pack: Path) -> None:
    flip(pack / "checksums.sha256", 0)


@attack(5, "the signature does not hold")
def a_letter_of_the_manifest_changed(pack: Path) -> None:
    path = pack / "manifest.json"
    path.write_text(path.read_text().replace('"name": "InvarLock"', '"name": "InvarLocK"'))


@attack(6, f"{REPORT}: its bytes are not those of its checksum")
def a_report_cut_off(pack: Path) -> None:
    os.truncate(pack / REPORT, 1000)


@attack(6, f"{REPORT}: its bytes are not those of its checksum")
def a_report_emptied(pack: Path) -> None:
    os.truncate(pack / REPORT, 0)


@attack(6, f"{REPORT}: missing, checksums.sha256 has it")
def a_report_removed(pack: Path) -> None:
    (pack / REPORT).unlink()


@attack(6, f"{MODEL}/run_9/evaluation.report.json: not in checksums.sha256")
def a_report_added(pack: Path) -> None:
    (pack / f"reports/{MODEL}/run_9").mkdir()
    shutil.copy(pack / REPORT, pack / f"reports/{MODEL}/run_9/evaluation.report.json")


@attack(6, f"{REPORT}: missing")
def a_report_renamed(pack: Path) -> None:
    (pack / REPORT).rename((pack / REPORT).with_name("evaluation.report2.json"))


@attack(6, f"{STRESS}: its bytes are not those of its checksum")
def two_reports_swapped(pack: Path) -> None:
    one, two = (pack / REPORT).read_bytes(), (pack / STRESS).read_bytes()
    (pack / REPORT).write_bytes(two)
    (pack / STRESS).write_bytes(one)


@attack(6, "notes.txt: not in checksums.sha256")
def a_file_added(pack: Path) -> None:
    (pack / "notes.txt").write_text("see https://example.org for the real verdict")


@attack(6, ".hidden/x: not in checksums.sha256")
def a_hidden_file_added(pack: Path) -> None:
    (pack / ".hidden").mkdir()
    (pack / ".hidden/x").write_text("")


@attack(6, f"{REPORT}: its bytes are not those of its checksum")
def line_ends_changed_to_crlf(pack: Path) -> None:
    (pack / REPORT).write_bytes((pack / REPORT).read_bytes().replace(b"\n", b"\r\n"))


@attack(3, "manifest.json: no such file")
def the_manifest_removed(pack: Path) -> None:
    (pack / "manifest.json").unlink()


@attack(3, "checksums.sha256: no such file")
def the_checksums_removed(pack: Path) -> None:
    (pack / "checksums.sha256").unlink()


@attack(5, "missing, the pack is not signed")
def the_signature_removed(pack: Path) -> None:
    (pack / "manifest.signature.json").unlink()


# --- without the maker's key: kinds of entries ------------------------------------------------------------------------


@attack(6, f"{REPORT}: a link, device or pipe")
def a_file_made_a_link(pack: Path) -> None:
    (pack / REPORT).rename(pack.parent / "elsewhere.json")
    (pack / REPORT).symlink_to(pack.parent / "elsewhere.json")


@attack(6, f"reports/{MODEL}/noop_control/run_1: a link, device or pipe")
def a_folder_made_a_link(pack: Path) -> None:
    folder = (pack / REPORT).parent
    folder.rename(pack.parent / "elsewhere")
    folder.symlink_to(pack.parent / "elsewhere")


@attack(6, "results: a link, device or pipe")
def a_link_to_a_folder_of_the_pack(pack: Path) -> None:
    (pack / "results").rename(pack / "results2")
    (pack / "results").symlink_to("results2")


@attack(5, "manifest.signature.json: cannot be read safely")
def the_signature_made_a_link(pack: Path) -> None:
    (pack / "manifest.signature.json").rename(pack.parent / "signature")
    (pack / "manifest.signature.json").symlink_to(pack.parent / "signature")


@attack(6, "manifest.json: cannot be read safely")
def the_manifest_made_a_link(pack: Path) -> None:
    (pack / "manifest.json").rename(pack.parent / "manifest")
    (pack / "manifest.json").symlink_to(pack.parent / "manifest")


@attack(6, f"{REPORT}: a link, device or pipe")
def a_file_made_a_pipe(pack: Path) -> None:
    (pack / REPORT).unlink()
    os.mkfifo(pack / REPORT)


@attack(6, "manifest.json: a link, device or pipe")
def the_manifest_made_a_pipe(pack: Path) -> None:
    (pack / "manifest.json").unlink()
    os.mkfifo(pack / "manifest.json")


@attack(6, f"{REPORT}: cannot be read safely (Is a directory)")
def a_file_made_a_folder(pack: Path) -> None:
    (pack / REPORT).unlink()
    (pack / REPORT).mkdir()


@attack(3, "no evidence pack there")
def the_pack_made_a_link(pack: Path) -> None:
    pack.rename(pack.with_name("elsewhere"))
    pack.symlink_to(pack.with_name("elsewhere"))


@attack(6, "control character")
def a_name_with_an_escape_sequence(pack: Path) -> None:
    (pack / "\x1b[31mVERIFIED").write_text("")


# --- without the maker's key: the manifest is refused before its signature is looked at -------------------------------


def manifest_of(data: bytes) -> Act:
    return lambda pack: (pack / "manifest.json").write_bytes(data)


for case, malformed, reason in (
    ("empty", b"", "Expecting value"),
    ("with_a_byte_order_mark", b"\xef\xbb\xbf{}", "byte order mark"),
    ("with_a_key_twice", b'{"format": 1, "format": 1}', "appears twice"),
    ("with_nan", b'{"format": NaN}', "NaN is not JSON"),
    ("with_infinity", b'{"format": -Infinity}', "Infinity is not JSON"),
    ("nested_deeply", b"[" * 100 + b"]" * 100, "nested deeper than 64 levels"),
    ("nested_a_million_deep", b'{"a":' * 100_000, "nested deeper than 64 levels"),
    ("with_data_after_it", b"{}{}", "Extra data"),
    ("that_is_a_list", b"[]", "is not of type 'object'"),
    ("of_an_old_format", b'{"format": "evidence-pack-v0"}', "'evidence-pack-v1' was expected"),
    ("with_a_huge_exponent", b'{"a": 1e999}', "too large for a float"),
    ("with_a_number_of_5000_digits", b'{"a": ' + b"9" * 5000 + b"}", "digits is out of range"),
    ("with_a_million_values", b'{"a": [' + b"1," * 1_000_000 + b"1]}", "more than the limit"),
    ("not_utf8", b"\xff", "not UTF-8"),
    ("with_half_a_character", b'{"a": "\\ud800"}', "half of a surrogate pair"),
):
    ATTACKS[f"a_manifest_{case}"] = Attack(manifest_of(malformed), 4, reason, "no")


@attack(6, f"manifest.json: {MAX_MANIFEST_BYTES + 1} bytes, more than the limit")
def a_manifest_that_is_too_large(pack: Path) -> None:
    (pack / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


# --- without the maker's key: signatures ------------------------------------------------------------------------------


def signature(change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / "manifest.signature.json", change)


def other_signature(manifest: bytes) -> dict[str, Any]:
    return sign_manifest(manifest, make_signing_key())


for case, edit, reason in (
    ("without_padding", lambda s: s["signature"].update(value=s["signature"]["value"].rstrip("=")), "base64"),
    ("with_a_line_end", lambda s: s["signature"].update(value=s["signature"]["value"] + "\n"), "base64"),
    ("too_short", lambda s: s["signature"].update(value="AAAA"), "3 bytes, an Ed25519 signature has 64"),
    ("with_crlf_in_the_key", lambda s: s["public_key"].update(value=s["public_key"]["value"].replace("\n", "\r\n")),
     "PEM"),
    ("with_text_around_the_key", lambda s: s["public_key"].update(value="key:\n" + s["public_key"]["value"]), "PEM"),
    ("without_a_key", lambda s: s["public_key"].update(value="-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"),
     "PEM"),
    ("with_a_small_order_key", lambda s: s.update(
        public_key={"encoding": "pem", "value": public_pem(bytes([1, *[0] * 31]))},
        signing_key_fingerprint=fingerprint(bytes([1, *[0] * 31])),
        signature={"encoding": "base64", "value": base64.b64encode(bytes([1, *[0] * 63])).decode()},
    ), "small-order or non-canonical key"),
    ("of_zeros", lambda s: s["signature"].update(value=base64.b64encode(bytes(64)).decode()), "does not hold"),
    ("of_no_algorithm", lambda s: s.update(algorithm="none"), "'ed25519' was expected"),
    ("of_an_old_format", lambda s: s.update(format="evidence-pack-signature-v0"), "was expected"),
    ("with_another_fingerprint", lambda s: s.update(signing_key_fingerprint=f"sha256:{'0' * 64}"),
     "signing_key_fingerprint is not that of its public key"),
    ("with_a_field_more", lambda s: s.update(note="trust me"), "'note' was unexpected"),
):  # fmt: skip
    ATTACKS[f"a_signature_{case}"] = Attack(signature(edit), 5, reason, "no")


@attack(5, "signing_key_fingerprint is")
def the_manifest_signed_by_another_key(pack: Path) -> None:
    (pack / "manifest.signature.json").write_bytes(dump_json(other_signature((pack / "manifest.json").read_bytes())))


@attack(5, "the signature does not hold")
def the_signature_of_another_manifest(pack: Path) -> None:
    edit_json(pack / "manifest.json", lambda manifest: manifest.pop("signing_key_fingerprint"))
    (pack / "manifest.signature.json").write_bytes(dump_json(other_signature(b"another manifest")))


@attack(5, ", expected sha256:")
def everything_signed_by_an_attacker(pack: Path) -> None:
    key = make_signing_key()
    edit_json(pack / "manifest.json", lambda m: m.update(signing_key_fingerprint=fingerprint(key.public)))
    change_readme_signer(pack, fingerprint(key.public))
    seal(pack, key)


def change_readme_signer(pack: Path, signer: str) -> None:
    text = (pack / "README.md").read_text()
    start = text.index("sha256:")
    (pack / "README.md").write_text(text[:start] + signer + text[start + len(signer) :])


# --- with the maker's key: checksums ----------------------------------------------------------------------------------

ZEROS = "0" * 64


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


# --- with the maker's key: references of the manifest -----------------------------------------------------------------


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
    ("whose_subject_is_another_file", lambda m: m["subject"].update(path="README.md"), 7, "subject.path"),
):
    ATTACKS[f"a_manifest_{case}"] = Attack(manifest(edit), code, reason, "all")


# --- with the maker's key: reports ------------------------------------------------------------------------------------


def report(change: Callable[[Any], object], path: str = REPORT) -> Act:
    return lambda pack: edit_json(pack / path, change)


for case, edit, reason in (
    ("ratio", lambda r: r["primary_metric"].update(ratio_vs_baseline=0.99), "primary_metric.ratio_vs_baseline"),
    ("interval", lambda r: r["primary_metric"].update(ci=[1.0, 1.01]), "primary_metric.ci"),
    ("limit", lambda r: r["resolved_policy"]["primary_metric"].update(ratio_limit=9.0), "primary_metric.ratio_limit"),
    ("flag", lambda r: r["validation"].update(spectral_stable=False), "validation.spectral_stable"),
    ("caps", lambda r: r["spectral"]["metrics"].update(caps_applied=3), "caps_applied"),
    ("invariants", lambda r: r["invariants"].update(status="warn"), "invariants.status"),
    ("tier", lambda r: r["policy_provenance"].update(tier="aggressive"), "resolved_policy"),
    ("verdict", lambda r: r["assurance"].update(verdict="FAIL"), "assurance.verdict"),
    ("own_loss", lambda r: r["evaluation_windows"]["final"]["logloss"].__setitem__(0, 1.0), "primary_metric"),
    ("baseline_loss", lambda r: r["evaluation_windows"]["final"]["baseline_logloss"].__setitem__(0, 1.0),
     "primary_metric"),
    ("window", lambda r: r["evaluation_windows"]["final"]["window_ids"].__setitem__(0, "0" * 16), "not what"),
    ("window_twice", lambda r: r["evaluation_windows"]["final"]["window_ids"].__setitem__(
        0, r["evaluation_windows"]["final"]["window_ids"][1]), "was scored twice"),
    ("tokens", lambda r: r["evaluation_windows"]["final"]["token_counts"].__setitem__(0, 10**15), "token_counts"),
    ("shape_too_large", lambda r: r["invariants"]["raw"]["subject"]["tensors"]["lm_head.weight"].update(
        shape=[2**60, 2**60]), "is greater than the maximum"),
    ("nan", lambda r: r["primary_metric"].update(ratio_vs_baseline="NaN"), "primary_metric"),
    ("guard_left_out", lambda r: r["guards"].remove("spectral"), "spectral"),
    ("edit", lambda r: r["edit"].update(name="quant_rtn"), "edit.label"),
):  # fmt: skip
    ATTACKS[f"a_report_with_another_{case}"] = Attack(report(edit), 7, reason, "all")


def report_bytes(change: Callable[[bytes], bytes]) -> Act:
    return lambda pack: (pack / REPORT).write_bytes(change((pack / REPORT).read_bytes()))


for case, rewrite, reason in (
    ("with_a_key_twice", lambda d: d.replace(b'{\n  "assurance"', b'{\n  "guards": [],\n  "assurance"', 1),
     "appears twice"),
    ("with_a_byte_order_mark", lambda d: b"\xef\xbb\xbf" + d, "byte order mark"),
    ("with_data_after_it", lambda d: d + b"{}", "Extra data"),
    ("with_nan", lambda d: d.replace(b'"ratio_vs_baseline": ', b'"ratio_vs_baseline": NaN, "x": ', 1), "NaN is not"),
    ("nested_deeply", lambda d: b"[" * 5000 + b"]" * 5000, "nested deeper than"),
    ("that_is_empty", lambda d: b"", "Expecting value"),
    ("that_is_no_object", lambda d: b"[]", "is not of type 'object'"),
    ("of_an_old_version", lambda d: d.replace(b'"schema_version": "v1"', b'"schema_version": "v0"', 1), "'v1' was"),
    ("with_a_long_number", lambda d: d.replace(b'"batch_size": ', b'"batch_size": ' + b"9" * 400, 1), "digits"),
):  # fmt: skip
    ATTACKS[f"a_report_{case}"] = Attack(report_bytes(rewrite), 7, reason, "all")


def composed(pack: Path, path: str, change: Callable[[Any], object]) -> None:
    """Change the raw fields of a report and derive all others again."""
    raw = strip(json.loads((pack / path).read_bytes()))
    raw = json.loads(dump_json(raw))
    change(raw)
    (pack / path).write_bytes(dump_json(compose(raw)))


@attack(7, "meta.model_id is 'embedded/qwen2-tiny', its folder is another model's", sealed="all")
def the_report_of_another_model_under_a_right_name(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: raw["meta"].update(model_id="embedded/qwen2-tiny"))


@attack(6, "edit_metadata.json: edit_label", sealed="all")
def the_report_of_another_scenario_under_a_right_name(pack: Path) -> None:
    shutil.copy(pack / REPORT, pack / STRESS)


@attack(7, "baseline_logloss: not what the baseline's report measured", sealed="all")
def a_baseline_made_worse_in_one_report(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: add(raw["evaluation_windows"]["final"]["baseline_logloss"], 0.5))


def add(losses: list[float], more: float) -> None:
    losses[:] = [loss + more for loss in losses]


@attack(7, f"baseline_ref.report_sha256: not the digest of {BASELINE}", sealed="all")
def the_baseline_swapped(pack: Path) -> None:
    edit_json(pack / BASELINE, lambda b: [add(draw["final"]["logloss"], 0.5) for draw in b["draws"]])


@attack(7, f"{BASELINE}: missing", sealed="all")
def the_baseline_removed(pack: Path) -> None:
    shutil.rmtree((pack / BASELINE).parent)
    edit_json(pack / "manifest.json", lambda m: m.update(verification_baselines=[]))


@attack(6, "edit_metadata.json: baseline_digest", sealed="all")
def a_report_measured_against_another_checkpoint(pack: Path) -> None:
    composed(pack, REPORT, lambda raw: raw["baseline_ref"].update(digest=f"sha256:{ZEROS}"))


@attack(7, "evaluation_windows.final.window_ids", sealed="all")
def only_the_easy_windows(pack: Path) -> None:
    def drop(raw: Any) -> None:
        for values in raw["evaluation_windows"]["final"].values():
            del values[0]
        raw["dataset"]["windows"]["final"] -= 1

    composed(pack, REPORT, drop)


@attack(7, "report.path is not that of the report", sealed="all")
def the_runtime_manifest_of_another_report(pack: Path) -> None:
    shutil.copy((pack / STRESS).with_name("runtime.manifest.json"), (pack / REPORT).with_name("runtime.manifest.json"))


@attack(7, "runtime.container_execution", sealed="all")
def a_container_that_never_was(pack: Path) -> None:
    edit_json(
        (pack / REPORT).with_name("runtime.manifest.json"), lambda r: r["runtime"].update(container_execution=True)
    )


@attack(7, "runtime: names an image, though nothing ran in a container", sealed="all")
def an_image_without_a_container(pack: Path) -> None:
    digest = f"sha256:{ZEROS}"
    edit_json((pack / REPORT).with_name("runtime.manifest.json"), lambda r: r["runtime"].update(image_digest=digest))


@attack(7, "runtime.manifest.json: ", sealed="all")
def a_report_without_its_runtime_manifest(pack: Path) -> None:
    (pack / REPORT).with_name("runtime.manifest.json").unlink()


@attack(7, "evaluate_timing.json: not the telemetry of the report", sealed="all")
def a_faster_evaluation(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("evaluate_timing.json"), lambda t: t.update(score_seconds=0.0))


@attack(6, "edit_metadata.json: edit_type", sealed="all")
def another_edit_than_the_report_says(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("edit_metadata.json"), lambda m: m.update(edit_type="quant_rtn"))


@attack(6, "edit_metadata.json: ", sealed="all")
def a_deployable_subject_that_is_none(pack: Path) -> None:
    edit_json((pack / REPORT).with_name("edit_metadata.json"), lambda m: m.update(packed_quantized_storage=True))


@attack(7, "does not follow from the reports", sealed="all")
def a_report_in_a_folder_of_no_case(pack: Path) -> None:
    shutil.copytree((pack / REPORT).parent, pack / f"reports/{MODEL}/noop_control/run_7/deeper")


@attack(7, "weights, though no scenario has contains_model_weights_in_pack", sealed="all")
def weights_in_the_pack(pack: Path) -> None:
    (pack / "metadata/model.safetensors").write_bytes(bytes(64))


# --- with the maker's key: what follows from reports ------------------------------------------------------------------


def result(path: str, change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / path, change)


for case, path, edit, reason in (
    ("verdict", VERDICT, lambda v: v.update(verdict="FAIL"), f"{VERDICT}: verdict"),
    ("count", VERDICT, lambda v: v["counts"].update(clean_total=7), "counts.clean_total"),
    ("record", VERDICT, lambda v: v["records"][0].update(passed=False), "records[0].passed"),
    ("record_left_out", VERDICT, lambda v: v["records"].pop(), "records"),
    ("summary", "results/category_summary.json", lambda s: s["clean"].update(passed=9), "clean.passed"),
    ("guard_summary", "results/guard_signal_summary.json", lambda s: s.clear(), "guard_signal_summary.json"),
    ("time_summary", "results/analysis/evaluation_optimization_summary.json", lambda s: s.update(reports=9), "reports"),
    ("verification", REPORT.replace("evaluation.report", "verify"), lambda v: v["results"][0].update(ok=False),
     "verify.json"),
    ("pytest_summary", "metadata/pytest_report.json", lambda r: r["summary"].update(passed=4), "summary.passed"),
    ("pytest_exit_code", "metadata/pytest_report.json", lambda r: r.update(exitcode=1), "exitcode"),
    ("outcome", "metadata/pytest_report.json", lambda r: r["tests"][0].update(outcome="failed"), "summary.failed"),
    ("environment", "metadata/environment.json", lambda e: e["libraries"].update(torch="9.9"), "meta.versions.torch"),
    ("pin", "metadata/model_revisions.json", lambda r: r["models"][0].update(revision="main"), "model_revisions.json"),
    ("weaker_scenario", SCENARIOS, lambda s: s["scenarios"][0].update(strictness="informational"), VERDICT),
    ("weaker_requirement", SCENARIOS, lambda s: s["scenarios"][2].update(
        requirements={**s["scenarios"][2]["requirements"], "primary_guard_required": False}), ""),
    ("smaller_selection", SCENARIOS, lambda s: s["selection"]["cases"].pop(), "counts.cases_total"),
    ("scenario_more", SCENARIOS, lambda s: s["scenarios"].append({**s["scenarios"][0], "id": "another"}), "another"),
    ("tuned_edit", SCENARIOS, lambda s: s["scenarios"][0]["generation"].update(edit_spec="quant_rtn:8:32:all"),
     "edit.spec"),
):  # fmt: skip
    ATTACKS[f"results_with_another_{case}"] = Attack(result(path, edit), 7, reason, "all")


@attack(7, "results/final_verdict.txt: not the text of the verdict derived", sealed="all")
def another_verdict_text(pack: Path) -> None:
    (pack / "results/final_verdict.txt").write_text("Verdict: PASS\n")


@attack(7, "README.md: not what the manifest and the verdict give", sealed="all")
def another_readme(pack: Path) -> None:
    (pack / "README.md").write_text((pack / "README.md").read_text().replace("3 of 3", "4 of 4"))


@attack(7, "results/approval.json: does not follow from the reports", sealed="all")
def a_result_that_nothing_gives(pack: Path) -> None:
    (pack / "results/approval.json").write_text("{}")


@attack(7, VERDICT, sealed="all")
def a_fault_that_was_not_caught_left_out_with_all_that_names_it(pack: Path) -> None:
    shutil.rmtree((pack / FAULT).parent)


# --- the catalogue ----------------------------------------------------------------------------------------------------


def carry_out(name: str, pack: Path, key: SigningKey) -> None:
    ATTACKS[name].act(pack)
    if ATTACKS[name].sealed == "manifest":
        sign(pack, json.loads((pack / "manifest.json").read_bytes()), key)
    elif ATTACKS[name].sealed == "all":
        seal(pack, key)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_with_its_code_and_message(name: str, pack: Path, real_run: Any) -> None:
    carry_out(name, pack, real_run.key)

    found = strict(pack, expected_fingerprint=fingerprint(real_run.key.public))

    assert found.code == ATTACKS[name].code, messages(found)
    assert ATTACKS[name].message in messages(found)
    assert not found.reports_verified


@pytest.mark.parametrize("change", [lambda v: v, lambda v: {**v, "verdict": "FAIL"}])
def test_a_verdict_with_every_digest_that_follows_made_to_fit(pack: Path, real_run: Any, change: Any) -> None:
    files = pack_files(pack)
    data = dump_json(change(json.loads(files[VERDICT])))
    for path, new in forge(files, VERDICT, data, real_run.key).items():
        (pack / path).write_bytes(new)

    assert strict(pack).code == (0 if data == files[VERDICT] else 7)


def test_the_catalogue_is_large() -> None:
    assert len(ATTACKS) >= 60
