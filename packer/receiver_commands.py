"""The commands that write a pack's evidence for other tools: ``bom`` and ``card``.

Each command imports its dependencies itself, so that ``--help`` stays fast.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.packer.commands import check_outside

from invarlock.folding import fold_warnings
from invarlock.output import say, say_error, say_json

if TYPE_CHECKING:
    from invarlock.packer.receivers.presentation import Presentation
    from invarlock.packer.receivers.subjects import PackSubject


def bom(options: Namespace) -> int:
    """Write the CycloneDX BOM of a subject of a verified pack."""
    # imported here to keep --help fast
    from invarlock.packer.receivers.bom import make_bom

    from invarlock.jsonio import dump_json

    document = make_bom(*_evidence(options))
    if options.out is None:
        say_json(document)
    else:
        _write(options.out, dump_json(document))
    return 0


def card(options: Namespace) -> int:
    """Write the section of a model card about a subject of a verified pack."""
    # imported here to keep --help fast
    from invarlock.packer.receivers.card import make_card

    text = make_card(*_evidence(options), with_metadata=not options.without_metadata)
    if options.out is None:
        say(*text.splitlines())
    else:
        _write(options.out, text.encode("utf-8"))
    return 0


def _evidence(options: Namespace) -> tuple[PackSubject, Presentation]:
    """Verify the pack; return the subject that the options select and the names that they add."""
    # imported here to keep --help fast
    from invarlock.packer.receivers.presentation import Presentation
    from invarlock.packer.receivers.subjects import SubjectOptions, read_subject
    from invarlock.packer.trust.signers import default_store, parse_fingerprint

    from invarlock.named_files import check_result_file

    given = Presentation(options.name, options.pack_url)
    given.check()
    if options.out is not None:
        check_result_file(options.out, "--out")
        check_outside(options.out, [options.pack], "--out")
    expected = options.expected_fingerprint
    subject = read_subject(
        options.pack,
        SubjectOptions(
            case=options.case,
            checkpoint_files=options.checkpoint_files,
            allow_unsigned=options.allow_unsigned,
            expected_fingerprint=None if expected is None else parse_fingerprint(expected),
            default_store=default_store(),
        ),
    )
    say_error(*(f"warning: {line}" for line in fold_warnings(subject.warnings)))
    return subject, given


def _write(path: Path, data: bytes) -> None:
    # imported here to keep --help fast
    from invarlock.named_files import write_result

    write_result(path, data, "--out")
    say_error(f"written: {path}")
