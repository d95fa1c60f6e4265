"""Attacks without the maker's key: the change to a pack, and the problem that a receiver sees."""

import base64
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.format.limits import MAX_MANIFEST_BYTES
from invarlock.packer.trust.keys import fingerprint, make_signing_key, public_pem
from invarlock.packer.trust.signature import sign_manifest
from packs import (
    BASELINE,
    MODEL,
    REPORT,
    STRESS,
    edit_json,
    seal,
)

from attacks.catalogue import Act, Attack, catalogue
from invarlock.documents.signatures import ManifestSignature
from invarlock.jsonio import dump_json
from invarlock.problems import Code

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x01
    path.write_bytes(data)


@attack(Code.CHECKSUM_DIFFERS, REPORT)
def a_byte_of_a_report_flipped(pack: Path) -> None:
    flip(pack / REPORT, 5000)


@attack(Code.CHECKSUM_DIFFERS, BASELINE)
def a_byte_of_a_baseline_flipped(pack: Path) -> None:
    flip(pack / BASELINE, 5000)


@attack(Code.CHECKSUM_DIFFERS, "README.md")
def a_byte_of_the_readme_flipped(pack: Path) -> None:
    flip(pack / "README.md", 100)


@attack(Code.CHECKSUM_DIFFERS, "results/final_verdict.txt")
def a_byte_of_the_verdict_text_flipped(pack: Path) -> None:
    flip(pack / "results/final_verdict.txt", 3)


@attack(Code.CHECKSUMS_DIGEST_DIFFERS, "checksums.sha256")
def a_byte_of_the_checksums_flipped(pack: Path) -> None:
    flip(pack / "checksums.sha256", 0)


@attack(Code.SIGNATURE_DOES_NOT_HOLD, "manifest.signature.json")
def a_letter_of_the_manifest_changed(pack: Path) -> None:
    path = pack / "manifest.json"
    path.write_text(path.read_text().replace('"name": "InvarLock"', '"name": "InvarLocK"'))


@attack(Code.CHECKSUM_DIFFERS, REPORT)
def a_report_cut_off(pack: Path) -> None:
    os.truncate(pack / REPORT, 1000)


@attack(Code.CHECKSUM_DIFFERS, REPORT)
def a_report_emptied(pack: Path) -> None:
    os.truncate(pack / REPORT, 0)


@attack(Code.SEALED_FILE_MISSING, REPORT)
def a_report_removed(pack: Path) -> None:
    (pack / REPORT).unlink()


@attack(Code.FILE_NOT_SEALED, f"reports/{MODEL}/run_9/evaluation.report.json")
def a_report_added(pack: Path) -> None:
    (pack / f"reports/{MODEL}/run_9").mkdir()
    shutil.copy(pack / REPORT, pack / f"reports/{MODEL}/run_9/evaluation.report.json")


@attack(Code.SEALED_FILE_MISSING, REPORT)
def a_report_renamed(pack: Path) -> None:
    (pack / REPORT).rename((pack / REPORT).with_name("evaluation.report2.json"))


@attack(Code.CHECKSUM_DIFFERS, STRESS)
def two_reports_swapped(pack: Path) -> None:
    one, two = (pack / REPORT).read_bytes(), (pack / STRESS).read_bytes()
    (pack / REPORT).write_bytes(two)
    (pack / STRESS).write_bytes(one)


@attack(Code.FILE_NOT_SEALED, "notes.txt")
def a_file_added(pack: Path) -> None:
    (pack / "notes.txt").write_text("see https://example.org for the real verdict")


@attack(Code.FILE_NOT_SEALED, ".hidden/x")
def a_hidden_file_added(pack: Path) -> None:
    (pack / ".hidden").mkdir()
    (pack / ".hidden/x").write_text("")


@attack(Code.LINE_ENDS_CHANGED, REPORT)
def line_ends_changed_to_crlf(pack: Path) -> None:
    (pack / REPORT).write_bytes((pack / REPORT).read_bytes().replace(b"\n", b"\r\n"))


@attack(Code.CONTROL_FILE_MISSING, "manifest.json")
def the_manifest_removed(pack: Path) -> None:
    (pack / "manifest.json").unlink()


@attack(Code.CONTROL_FILE_MISSING, "checksums.sha256")
def the_checksums_removed(pack: Path) -> None:
    (pack / "checksums.sha256").unlink()


@attack(Code.SIGNATURE_MISSING, "manifest.signature.json")
def the_signature_removed(pack: Path) -> None:
    (pack / "manifest.signature.json").unlink()


@attack(Code.NOT_A_REGULAR_FILE, REPORT)
def a_file_made_a_link(pack: Path) -> None:
    (pack / REPORT).rename(pack.parent / "elsewhere.json")
    (pack / REPORT).symlink_to(pack.parent / "elsewhere.json")


@attack(Code.NOT_A_REGULAR_FILE, f"reports/{MODEL}/noop_control/run_1")
def a_folder_made_a_link(pack: Path) -> None:
    folder = (pack / REPORT).parent
    folder.rename(pack.parent / "elsewhere")
    folder.symlink_to(pack.parent / "elsewhere")


@attack(Code.NOT_A_REGULAR_FILE, "results")
def a_link_to_a_folder_of_the_pack(pack: Path) -> None:
    (pack / "results").rename(pack / "results2")
    (pack / "results").symlink_to("results2")


@attack(Code.SIGNATURE_MALFORMED, "manifest.signature.json")
def the_signature_made_a_link(pack: Path) -> None:
    (pack / "manifest.signature.json").rename(pack.parent / "signature")
    (pack / "manifest.signature.json").symlink_to(pack.parent / "signature")


@attack(Code.FILE_UNREADABLE, "manifest.json")
def the_manifest_made_a_link(pack: Path) -> None:
    (pack / "manifest.json").rename(pack.parent / "manifest")
    (pack / "manifest.json").symlink_to(pack.parent / "manifest")


@attack(Code.NOT_A_REGULAR_FILE, REPORT)
def a_file_made_a_pipe(pack: Path) -> None:
    (pack / REPORT).unlink()
    os.mkfifo(pack / REPORT)


@attack(Code.NOT_A_REGULAR_FILE, "manifest.json")
def the_manifest_made_a_pipe(pack: Path) -> None:
    (pack / "manifest.json").unlink()
    os.mkfifo(pack / "manifest.json")


@attack(Code.NOT_A_REGULAR_FILE, REPORT)
def a_file_made_a_folder(pack: Path) -> None:
    (pack / REPORT).unlink()
    (pack / REPORT).mkdir()


@attack(Code.PACK_MISSING, None)
def the_pack_made_a_link(pack: Path) -> None:
    pack.rename(pack.with_name("elsewhere"))
    pack.symlink_to(pack.with_name("elsewhere"))


@attack(Code.PATH_UNSAFE, "\\x1b[31mVERIFIED")
def a_name_with_an_escape_sequence(pack: Path) -> None:
    (pack / "\x1b[31mVERIFIED").write_text("")


def manifest_of(data: bytes) -> Act:
    return lambda pack: (pack / "manifest.json").write_bytes(data)


for case, malformed, reason in (
    ("empty", b"", (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_a_byte_order_mark", b"\xef\xbb\xbf{}", (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_a_key_twice", b'{"format": 1, "format": 1}', (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_nan", b'{"format": NaN}', (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_infinity", b'{"format": -Infinity}', (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("nested_deeply", b"[" * 100 + b"]" * 100, (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("nested_a_million_deep", b'{"a":' * 100_000, (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_data_after_it", b"{}{}", (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("that_is_a_list", b"[]", (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("of_a_later_format", b'{"format": "evidence-pack-v2"}', (Code.FORMAT_UNKNOWN, "manifest.json", "format")),
    ("of_an_old_format", b'{"format": "evidence-pack-v0"}', (Code.MANIFEST_MALFORMED, "manifest.json", "format")),
    ("with_a_huge_exponent", b'{"a": 1e999}', (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_a_number_of_5000_digits", b'{"a": ' + b"9" * 5000 + b"}", (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_a_million_values", b'{"a": [' + b"1," * 1_000_000 + b"1]}", (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("not_utf8", b"\xff", (Code.MANIFEST_MALFORMED, "manifest.json", "")),
    ("with_half_a_character", b'{"a": "\\ud800"}', (Code.MANIFEST_MALFORMED, "manifest.json", "")),
):
    ATTACKS[f"a_manifest_{case}"] = Attack(manifest_of(malformed), *reason)


@attack(Code.FILE_TOO_LARGE, "manifest.json")
def a_manifest_that_is_too_large(pack: Path) -> None:
    (pack / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


def signature(change: Callable[[Any], object]) -> Act:
    return lambda pack: edit_json(pack / "manifest.signature.json", change)


def other_signature(manifest: bytes) -> ManifestSignature:
    return sign_manifest(manifest, make_signing_key())


for case, edit, reason in (
    ("without_padding", lambda s: s["signature"].update(value=s["signature"]["value"].rstrip("=")),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "signature")),
    ("with_a_line_end", lambda s: s["signature"].update(value=s["signature"]["value"] + "\n"),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "signature")),
    ("too_short", lambda s: s["signature"].update(value="AAAA"),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "signature")),
    ("with_crlf_in_the_key", lambda s: s["public_key"].update(value=s["public_key"]["value"].replace("\n", "\r\n")),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "public_key")),
    ("with_text_around_the_key", lambda s: s["public_key"].update(value="key:\n" + s["public_key"]["value"]),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "public_key")),
    ("without_a_key", lambda s: s["public_key"].update(value="-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "public_key")),
    ("with_a_small_order_key", lambda s: s.update(
        public_key={"encoding": "pem", "value": public_pem(bytes([1, *[0] * 31]))},
        signing_key_fingerprint=fingerprint(bytes([1, *[0] * 31])),
        signature={"encoding": "base64", "value": base64.b64encode(bytes([1, *[0] * 63])).decode()},
    ), (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "public_key")),
    ("of_zeros", lambda s: s["signature"].update(value=base64.b64encode(bytes(64)).decode()),
     (Code.SIGNATURE_DOES_NOT_HOLD, "manifest.signature.json", "")),
    ("of_no_algorithm", lambda s: s.update(algorithm="none"),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "algorithm")),
    ("of_an_old_format", lambda s: s.update(format="evidence-pack-signature-v0"),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "format")),
    ("with_another_fingerprint", lambda s: s.update(signing_key_fingerprint=f"sha256:{'0' * 64}"),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "signing_key_fingerprint")),
    ("with_a_field_more", lambda s: s.update(note="trust me"),
     (Code.SIGNATURE_MALFORMED, "manifest.signature.json", "")),
):  # fmt: skip
    ATTACKS[f"a_signature_{case}"] = Attack(signature(edit), *reason)


@attack(Code.SIGNER_DIFFERS, "manifest.json", "signing_key_fingerprint")
def the_manifest_signed_by_another_key(pack: Path) -> None:
    (pack / "manifest.signature.json").write_bytes(dump_json(other_signature((pack / "manifest.json").read_bytes())))


@attack(Code.SIGNATURE_DOES_NOT_HOLD, "manifest.signature.json")
def the_signature_of_another_manifest(pack: Path) -> None:
    edit_json(pack / "manifest.json", lambda manifest: manifest.pop("signing_key_fingerprint"))
    (pack / "manifest.signature.json").write_bytes(dump_json(other_signature(b"another manifest")))


@attack(Code.SIGNER_NOT_EXPECTED, "manifest.signature.json")
def everything_signed_by_an_attacker(pack: Path) -> None:
    key = make_signing_key()
    edit_json(pack / "manifest.json", lambda m: m.update(signing_key_fingerprint=fingerprint(key.public)))
    change_readme_signer(pack, fingerprint(key.public))
    seal(pack, key)


def change_readme_signer(pack: Path, signer: str) -> None:
    text = (pack / "README.md").read_text()
    start = text.index("sha256:")
    (pack / "README.md").write_text(text[:start] + signer + text[start + len(signer) :])
