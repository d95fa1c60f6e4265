"""Attacks by somebody without the maker's key: what is done to a pack, which exit code, which message."""

import base64
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from invarlock.packer.keys import fingerprint, make_signing_key, public_pem
from invarlock.packer.limits import MAX_MANIFEST_BYTES
from invarlock.packer.signature import sign_manifest
from packs import (
    BASELINE,
    MODEL,
    REPORT,
    STRESS,
    edit_json,
    seal,
)

from attacks.catalogue import Act, Attack, catalogue
from invarlock.jsonio import dump_json

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)


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


@attack(6, f"{REPORT}: its line ends were changed")
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


@attack(6, f"{REPORT}: a folder where a file should be")
def a_file_made_a_folder(pack: Path) -> None:
    (pack / REPORT).unlink()
    (pack / REPORT).mkdir()


@attack(3, "a link; name the folder that it leads to")
def the_pack_made_a_link(pack: Path) -> None:
    pack.rename(pack.with_name("elsewhere"))
    pack.symlink_to(pack.with_name("elsewhere"))


@attack(6, "control character")
def a_name_with_an_escape_sequence(pack: Path) -> None:
    (pack / "\x1b[31mVERIFIED").write_text("")


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
    ATTACKS[f"a_manifest_{case}"] = Attack(manifest_of(malformed), 4, reason)


@attack(6, f"manifest.json: {MAX_MANIFEST_BYTES + 1} bytes, more than the limit")
def a_manifest_that_is_too_large(pack: Path) -> None:
    (pack / "manifest.json").write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


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
    ATTACKS[f"a_signature_{case}"] = Attack(signature(edit), 5, reason)


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
