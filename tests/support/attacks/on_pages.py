"""Attacks on the pages of reports, which people read first. The attacker has the maker's key and reseals the pack."""

import shutil
from collections.abc import Callable
from pathlib import Path

from packs import BASELINE, FAULT, REPORT, STRESS, page, page_of

from attacks.catalogue import Act, Attack, catalogue
from invarlock.problems import Code

ATTACKS: dict[str, Attack] = {}
attack = catalogue(ATTACKS)

PAGE = page_of(REPORT)


def edited(path: str, change: Callable[[bytes], bytes]) -> Act:
    def act(pack: Path) -> None:
        before = (pack / path).read_bytes()
        after = change(before)
        assert after != before
        (pack / path).write_bytes(after)

    return act


for case, change in (
    ("a_letter_changed", lambda data: data.replace(b"InvarLock", b"InvarLocK", 1)),
    ("another_ratio", lambda data: data.replace(b">0 %</p>", b">-5 %</p>", 1)),
    ("another_subject", lambda data: data.replace(b"sha256:", b"sha512:", 1)),
    ("a_script", lambda data: data.replace(b"</body>", b"<script src=https://example.org/x></script></body>")),
    ("a_picture_from_elsewhere", lambda data: data.replace(b"</body>", b"<img src=https://example.org/x></body>")),
    ("no_content_policy", lambda data: data.replace(b"default-src &#x27;none&#x27;", b"default-src *")),
    ("a_comment_more", lambda data: data + b"<!-- -->"),
    ("a_byte_order_mark", lambda data: b"\xef\xbb\xbf" + data),
    ("other_line_ends", lambda data: data.replace(b"\n", b"\r\n")),
    ("its_end_cut_off", lambda data: data[:-1000]),
    ("nothing_in_it", lambda data: b""),
):
    ATTACKS[f"a_page_with_{case}"] = Attack(edited(PAGE, change), Code.PAGE_DIFFERS, PAGE, sealed="all")

for case, change in (
    ("fails_that_pass", lambda data: data.replace(b">fails<", b">passes<", 1)),
    ("another_signer", lambda data: data.replace(b"sha256:", b"sha256:0", 1)),
    ("another_script", lambda data: data.replace(b"use strict", b"use Strict")),
    ("a_link_to_elsewhere", lambda data: data.replace(b'href="reports/', b'href="https://example.org/reports/', 1)),
    ("nothing_in_it", lambda data: b""),
):
    ATTACKS[f"the_page_of_the_pack_with_{case}"] = Attack(
        edited("index.html", change), Code.PAGE_DIFFERS, "index.html", sealed="all"
    )

ATTACKS["a_page_of_a_destructive_edit_that_says_pass"] = Attack(
    edited(
        page_of(STRESS),
        lambda data: data.replace(b'class="fail">FAIL', b'class="pass">PASS').replace(b"failed", b"passed"),
    ),
    Code.PAGE_DIFFERS,
    page_of(STRESS),
    sealed="all",
)


@attack(Code.PAGE_DIFFERS, PAGE, sealed="all")
def the_page_of_another_report(pack: Path) -> None:
    shutil.copy(pack / page_of(STRESS), pack / PAGE)


@attack(Code.PAGE_DIFFERS, page_of(FAULT), sealed="all")
def the_page_of_a_report_whose_bytes_were_others(pack: Path) -> None:
    # the same document with a different serialization
    (pack / page_of(FAULT)).write_bytes(page((pack / FAULT).read_bytes() + b"\n"))


@attack(Code.FILE_DOES_NOT_FOLLOW, page_of(BASELINE), sealed="all")
def a_page_next_to_a_baseline(pack: Path) -> None:
    shutil.copy(pack / PAGE, pack / page_of(BASELINE))


@attack(Code.FILE_DOES_NOT_FOLLOW, "results/evaluation.html", sealed="all")
def a_page_of_the_whole_run(pack: Path) -> None:
    shutil.copy(pack / PAGE, pack / "results/evaluation.html")


@attack(Code.CHECKSUM_DIFFERS, PAGE)
def a_page_changed_without_the_key(pack: Path) -> None:
    edited(PAGE, lambda data: data.replace(b"passed", b"PASSED"))(pack)


@attack(Code.NOT_A_REGULAR_FILE, PAGE)
def a_page_made_a_link(pack: Path) -> None:
    (pack / PAGE).rename(pack.parent / "elsewhere.html")
    (pack / PAGE).symlink_to(pack.parent / "elsewhere.html")
