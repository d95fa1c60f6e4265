"""The commands of the packer: each calls the function that does the work and prints the result.

Each command imports its dependencies itself, so that ``--help`` stays fast.
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.packer.signing_commands import key_in, signing_key

from invarlock.errors import ReportError, UsageError, printable
from invarlock.folding import fold_problems, fold_warnings
from invarlock.moments import format_moment, utc_now
from invarlock.output import say, say_error, say_json, say_results
from invarlock.problems import Code

if TYPE_CHECKING:
    from invarlock.packer.build.building import PackContent
    from invarlock.packer.runs.merging import MergedRun
    from invarlock.packer.verify.verifying import VerifyResult


def build(options: Namespace) -> int:
    """Build a pack from reports on disk, and print what was made."""

    # imported here to keep --help fast
    from invarlock.packer.build.building import build_pack
    from invarlock.packer.runs.run_inputs import check_inputs

    from invarlock.reports.sidecars import report_file

    options.report = [report_file(path) for path in options.report]
    key = None if options.signing_key is None else signing_key(options)
    content = _pair_content(options) if options.final_verdict is None else _run_content(options)
    check_inputs(content)
    built = build_pack(options.out, content, key, utc_now())
    if options.json:
        say_json({"ok": True, "exit_code": 0, **built.document()})
        return 0
    say(f"built {built.path}: {built.headline}", *built.evidence)
    sign = shlex.join(["invarlock", "sign", str(built.path), "--signing-key", "KEY.pem"])
    say(f"signer: {built.fingerprint or f'none; sign it with: {sign}'}")
    return 0


def _run_content(options: Namespace) -> PackContent:
    """Return the content of a pack made from the reports of a run."""
    # imported here to keep --help fast
    from invarlock.packer.build.assembly import gather_files
    from invarlock.packer.runs.run_inputs import find_inputs

    return gather_files(
        reports=options.report,
        final_verdict=options.final_verdict,
        materials=options.material,
        readme_notes=options.readme,
        **find_inputs(
            [*options.report, options.final_verdict],
            baselines=options.baseline,
            presets=options.presets,
            scenarios=options.scenarios,
            pytest_report=options.pytest_report,
            source_repo=options.source_repo,
            environment=options.environment,
        ),
    )


def _pair_content(options: Namespace) -> PackContent:
    """Return the content of a pack made from one report of ``invarlock evaluate``.

    Raises:
        UsageError: when several reports are given, or options that apply only to a run.
    """
    # imported here to keep --help fast
    from invarlock.packer.build.assembly import gather_pair

    if len(options.report) > 1 or len(options.baseline) > 1 or options.scenarios or options.pytest_report:
        raise UsageError(
            "--final-verdict: missing; without a run's verdict a pack has one report of invarlock evaluate, and no "
            "--scenarios or --pytest-report",
            code=Code.OPTIONS_CONFLICT,
        )
    return gather_pair(
        options.report[0],
        baseline=next(iter(options.baseline), None),
        presets=options.presets,
        environment=options.environment,
        source_repo=options.source_repo,
        materials=options.material,
        readme_notes=options.readme,
    )


def merge(options: Namespace) -> int:
    """Merge the shards of a run into one run and one pack, and print what was made."""

    # imported here to keep --help fast
    from invarlock.packer.runs.merging import merge_runs
    from invarlock.packer.trust.keys import make_signing_key

    made = options.signing_key is None and not options.unsigned
    key = None if options.unsigned else make_signing_key() if made else signing_key(options)
    merged = merge_runs(options.runs, options.output, key, utc_now())
    origin = " (temporary key, now discarded; pass --signing-key to sign with your own)" if made else ""
    if options.json:
        _require_pass(merged, options)
        say_json({"ok": True, "exit_code": 0, "run": str(merged.path), **merged.pack.document()})
        return 0
    say(*merged.lines)
    say(f"merged {len(options.runs)} shards: {merged.path}", f"verdict:        {merged.verdict}")
    say(f"evidence pack:  {merged.pack.path}", *merged.pack.evidence)
    say(f"signer:         {merged.pack.fingerprint or 'none, the pack is not signed'}{origin}")
    _require_pass(merged, options)
    return 0


def _require_pass(merged: MergedRun, options: Namespace) -> None:
    """Check that the verdict of a merged run is PASS if the user requires it.

    Raises:
        ReportError: when it is not PASS.
    """
    if options.require_pass and merged.verdict != "PASS":
        words = f"the verdict is {merged.verdict}, but --require-pass requires PASS"
        raise ReportError(words, where=str(merged.path), code=Code.PASS_REQUIRED)


def inspect(options: Namespace) -> int:
    """Print what a pack claims, without verifying it."""
    # imported here to keep --help fast
    from invarlock.packer.inspection import inspect_pack

    summary = inspect_pack(options.pack)
    if options.json:
        say_json(summary)
        return 0
    checksums, reports, ready = summary["checksums"], summary["reports"], summary["strict_readiness"]
    say(f"{summary['pack']}: NOT VERIFIED; these are the pack's own claims")
    say(f"verdict claimed: {summary['verdict_claimed']}", *summary["evidence_claimed"])
    say(f"signature: {summary['signature']}; signer: {summary['signer_fingerprint']}")
    say(
        f"checksums: {checksums['files']} files, {len(checksums['missing'])} missing, "
        f"{len(checksums['uncovered'])} not covered"
    )
    say(
        f"reports: {reports['total']} ({reports['errors']} of faults, {reports['in_container']} made in a "
        f"container); total size: {summary['bytes']} bytes"
    )
    say(f"ready for strict: {'yes' if ready['ready'] else 'no, ' + '; '.join(ready['against'])}")
    return 0


def verify(options: Namespace) -> int:
    """Verify packs, print the results and return the highest exit code."""
    # imported here to keep --help fast
    from invarlock.packer.progress import ProgressLine
    from invarlock.packer.receivers.receipts import make_receipt
    from invarlock.packer.trust.envelopes import sign_statement
    from invarlock.packer.trust.signers import default_store, parse_fingerprint, parse_moment
    from invarlock.packer.verify.policies import read_policy
    from invarlock.packer.verify.verifying import VerifyOptions, verify_pack

    from invarlock.jsonio import dump_json
    from invarlock.named_files import check_result_file, write_result

    if (options.receipt is None) != (options.receipt_key is None):
        raise UsageError("--receipt and --receipt-key belong together; give both", code=Code.OPTIONS_CONFLICT)
    for name, file in (("--json-out", options.json_out), ("--receipt", options.receipt)):
        if file is not None:
            check_result_file(file, name)
            check_outside(file, options.packs, name)
    receiver = None if options.receipt is None else key_in(options.receipt_key, options)
    wanted = VerifyOptions(
        strict=options.strict,
        report_assurance=options.report_assurance,
        expected_fingerprint=None
        if options.expected_fingerprint is None
        else parse_fingerprint(options.expected_fingerprint),
        trust_store=options.trust_store,
        # with --allow-unsigned, a revoked signer of a signed pack is still reported
        default_store=default_store() if options.trust_store is None else None,
        allow_unsigned=options.allow_unsigned,
        require_pass=options.require_pass,
        at=None if options.at is None else parse_moment(options.at),
        policy=None if options.policy is None else read_policy(options.policy),
        timestamp_certificate=options.timestamp_certificate,
    )
    results = []
    for pack in options.packs:
        with ProgressLine(sys.stderr, printable(f"verifying {pack.name}")) as progress:
            results.append(verify_pack(pack, wanted, None if options.quiet else progress.start))
    documents = [result.document() for result in results]
    document = documents[0] if len(documents) == 1 else documents
    if options.json_out is not None:
        write_result(options.json_out, dump_json(document), "--json-out")
    if receiver is not None:
        write_result(
            options.receipt, dump_json(sign_statement(make_receipt(results, utc_now()), receiver)), "--receipt"
        )
    if options.json:
        say_json(document)
    elif not options.quiet:
        say_results(*_separated([_verify_lines(result) for result in results]))
    return max(result.code for result in results)


def verify_receipt(options: Namespace) -> int:
    """Check a receipt, print what it says, and return 0 if it accepts the packs."""
    # imported here to keep --help fast
    from invarlock.packer.format.checksums import MANIFEST_NAME
    from invarlock.packer.format.limits import MAX_ATTESTATION_BYTES, MAX_MANIFEST_BYTES
    from invarlock.packer.receivers.receipts import open_receipt, receipt_lines, receipt_problems
    from invarlock.packer.trust.keys import load_public_key

    from invarlock.digests import sha256_hex
    from invarlock.jsonio import read_file

    statement = open_receipt(
        read_file(options.receipt, limit_bytes=MAX_ATTESTATION_BYTES), load_public_key(options.public_key)
    )
    manifests = {
        str(pack): sha256_hex(read_file(pack / MANIFEST_NAME, limit_bytes=MAX_MANIFEST_BYTES)) for pack in options.packs
    }
    problems = receipt_problems(statement, manifests)
    if options.json:
        errors = [problem.document() for problem in problems]
        say_json({"ok": not problems, "statement": statement, "errors": errors})
    else:
        headline = "RECEIPT NOT ACCEPTED" if problems else "RECEIPT VALID"
        said = [*receipt_lines(statement), *(f"  {problem} [{problem.code}]" for problem in problems)]
        say(printable(f"{headline}: {options.receipt}"), *map(printable, said))
    return max((problem.code.exit_code for problem in problems), default=0)


def diff(options: Namespace) -> int:
    """Verify two packs or two reports, and print how they differ."""
    # imported here to keep --help fast
    from invarlock.packer.runs.lone_reports import check_kind, report_at

    paths = (options.first, options.second)
    reports = [found for path in paths if (found := report_at(path)) is not None]
    for path in paths:
        check_kind(path, several=bool(reports))
    if not reports:
        return _diff_packs(options)
    if len(reports) < len(paths):
        pack = next(path for path in paths if report_at(path) is None)
        raise UsageError(
            f"{pack} is a pack and {reports[0]} is a report; give two packs or two reports", code=Code.OPTIONS_CONFLICT
        )
    if options.allow_unsigned:
        raise UsageError(
            f"--allow-unsigned: an option of packs, but {reports[0]} is a report; leave it out",
            code=Code.OPTIONS_CONFLICT,
        )
    return _diff_reports(reports, options)


def _diff_reports(reports: Sequence[Path], options: Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.packer.report_diffing import diff_reports, render_report_diff, render_report_diff_page
    from invarlock.packer.runs.lone_reports import verify_report_file
    from invarlock.packer.verify.report import verify_envelope

    from invarlock.named_files import check_result_file, write_result

    if options.html is not None:
        check_result_file(options.html, "--html")
    documents = []
    for path in reports:
        result = verify_report_file(path)
        if not result.holds:
            if options.json:
                say_json(verify_envelope(path.name, result.report, "evaluate", result.problems))
            say_error(f"{path}: NOT VERIFIED", *(f"  {line}" for line in fold_problems(result.problems)))
            return result.code
        documents.append(result.report)
    found = diff_reports(*documents)
    if options.html is not None:
        write_result(options.html, render_report_diff_page(found, (str(reports[0]), str(reports[1]))), "--html")
    if options.json:
        say_json(found)
    else:
        say(*render_report_diff(found), *([] if options.html is None else [f"page: {options.html}"]))
    return 0


def _diff_packs(options: Namespace) -> int:
    # imported here to keep --help fast
    from invarlock.packer.diffing import diff_verdicts, render_diff, render_diff_page
    from invarlock.packer.verify.verifying import VerifyOptions, verify_pack

    from invarlock.named_files import check_result_file, write_result

    if options.html is not None:
        check_result_file(options.html, "--html")
    verdicts, signed, signers = [], [], []
    for pack in (options.first, options.second):
        result = verify_pack(pack, VerifyOptions(allow_unsigned=options.allow_unsigned))
        if not result.holds:
            if options.json:
                say_json(result.document())
            say_error(*_verify_lines(result))
            return result.code
        if result.verdict_document is None:
            raise UsageError(
                "claims no verdict, so there is nothing to compare", code=Code.VERDICT_NOT_CLAIMED, where=str(pack)
            )
        verdicts.append(result.verdict_document)
        signed.append(result.signed)
        signers.append(result.signer)
    found = {**diff_verdicts(*verdicts), "signed": signed, "signers": signers}
    if options.html is not None:
        page = render_diff_page(found, (str(options.first), str(options.second)))
        write_result(options.html, page, "--html")
    if options.json:
        say_json(found)
    else:
        say(*render_diff(found), *([] if options.html is None else [f"page: {options.html}"]))
    return 0


def _verify_lines(result: VerifyResult) -> list[str]:
    """Return the text output: the result first, then the claims, then the warnings."""
    if not result.holds:
        shown = [f"  {line}" for line in fold_problems(result.problems)]
        more = [f"  and {result.left_out} more problems of this class"] if result.left_out else []
        remedies: dict[str, list[str]] = {}
        for code in dict.fromkeys(problem.code for problem in result.problems):
            remedies.setdefault(code.remedy, []).append(code.value)
        advice = [f"what to do about {', '.join(codes)}: {remedy}" for remedy, codes in remedies.items()]
        return [f"NOT VERIFIED (exit code {result.code}): {result.pack}", *shown, *more, *advice]
    reports = len(result.envelope["results"]) if result.envelope else 0
    derived = f"reports: {reports} verified, every derived number matches the raw measurements"
    # imported here to keep --help fast
    from invarlock.packer.format import layout

    headline = "VERIFIED" if result.signed else "NOT SIGNED, all other checks passed"
    signer = f"{result.signer} ({result.authenticity})" if result.signed else "none (anybody could have made this pack)"
    return [
        f"{headline}: {result.pack}",
        _verdict_line(result),
        *result.evidence,
        f"signer: {signer}{_attested_words(result)}",
        f"time: {_time_words(result)}",
        derived if result.reports_verified else "reports: not verified",
        *([f"overview: {result.pack / layout.PACK_PAGE}"] if result.has_page else []),
        *(f"warning: {warning}" for warning in fold_warnings(result.warnings)),
    ]


def _time_words(result: VerifyResult) -> str:
    if result.stamp is not None:
        return f"signed at {format_moment(result.stamp.moment)} at the latest, as {result.stamp.authority} states"
    return f"made at {result.made_at or 'an unknown time'}, as the maker states; no authority confirms it"


def _attested_words(result: VerifyResult) -> str:
    return f", attested ({', '.join(result.attested)})" if result.attested else ""


def _verdict_line(result: VerifyResult) -> str:
    # imported here to keep --help fast
    from invarlock.verdict.rendering import headline

    if result.verdict_document is not None and "not_bundled" in result.verdict_document:
        return headline(result.verdict_document)
    return f"verdict: {result.verdict or 'none'}"


def check_outside(file: Path, packs: Sequence[Path], option: str) -> None:
    """Check that a result is not written into a pack.

    Raises:
        UsageError: when it would be.
    """
    for pack in packs:
        if _real(file).is_relative_to(_real(pack)):
            raise UsageError(f"{option}: {file} is inside the pack; give a path outside it", code=Code.OPTIONS_CONFLICT)


def _real(path: Path) -> Path:
    """Return a path with links resolved; unlike `Path.resolve` it accepts link cycles."""
    return Path(os.path.realpath(path))


def _separated(blocks: Sequence[list[str]]) -> list[str]:
    """Return the lines of all blocks, separated by empty lines."""
    return [line for number, block in enumerate(blocks) for line in (["", *block] if number else block)]
