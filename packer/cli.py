"""The packer's command line: ``python -m invarlock.packer keygen|build|inspect|verify``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invarlock.errors import InvarLockError, UsageError

if TYPE_CHECKING:
    from invarlock.packer.verify import VerifyResult

EXIT_CODES = """exit codes: 0 verified (or built, inspected, generated), 2 invalid usage, 3 missing pack or file,
4 malformed manifest, 5 signature, 6 integrity, 7 a report or a claim that does not follow from the reports"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except InvarLockError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if error.exit_code > 1 else UsageError.exit_code
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m invarlock.packer", description="Build, inspect and verify evidence packs.", epilog=EXIT_CODES
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    keygen = commands.add_parser("keygen", help="make an Ed25519 key pair: NAME.pem and NAME.pub.pem")
    keygen.add_argument("name", type=Path, metavar="NAME")
    keygen.set_defaults(command=_keygen)
    build = commands.add_parser("build", help="build a pack from reports that exist", epilog=EXIT_CODES)
    build.add_argument("out", type=Path, metavar="OUT", help="the pack's folder, which must not exist")
    build.add_argument(
        "--final-verdict", type=Path, required=True, metavar="FILE", help="final_verdict.json of the run"
    )
    build.add_argument(
        "--report",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="evaluation.report.json, with its runtime.manifest.json and edit_metadata.json beside it",
    )
    build.add_argument("--baseline", type=Path, nargs="+", action="extend", default=[], metavar="FILE")
    build.add_argument("--scenarios", type=Path, required=True, metavar="FILE", help="the run's state/scenarios.json")
    build.add_argument("--pytest-report", type=Path, metavar="FILE", help="the run's state/pytest_report.json")
    build.add_argument("--source-repo", type=Path, metavar="FILE")
    build.add_argument("--environment", type=Path, metavar="FILE")
    build.add_argument("--material", nargs="+", action="extend", default=[], metavar="NAME=FILE")
    signing = build.add_mutually_exclusive_group(required=True)
    signing.add_argument("--signing-key", type=Path, metavar="FILE")
    signing.add_argument("--unsigned", action="store_true")
    build.set_defaults(command=_build)
    inspect = commands.add_parser("inspect", help="say what a pack holds and claims, without verifying its reports")
    inspect.add_argument("pack", type=Path, metavar="PACK")
    inspect.add_argument("--json", action="store_true")
    inspect.set_defaults(command=_inspect)
    verify = commands.add_parser("verify", help="verify a pack, offline", epilog=EXIT_CODES)
    verify.add_argument("pack", type=Path, metavar="PACK")
    verify.add_argument("--strict", action="store_true", help="require a signature, allow no file that is not sealed")
    verify.add_argument(
        "--report-assurance",
        choices=("report", "strict", "off"),
        default="report",
        help="report derives every claim again (default); strict also needs container execution; off checks bytes only",
    )
    verify.add_argument("--expected-fingerprint", metavar="sha256:HEX", help="the signer that is expected")
    verify.add_argument("--trust-store", type=Path, metavar="FILE", help="the signers that are trusted")
    verify.add_argument("--require-pass", action="store_true", help="a verdict other than PASS is exit code 7")
    verify.add_argument("--json", action="store_true", help="print the result as JSON")
    verify.add_argument("--json-out", type=Path, metavar="FILE", help="write the result there, outside the pack")
    verify.add_argument("-q", "--quiet", action="store_true", help="print nothing, the exit code says it")
    verify.set_defaults(command=_verify)
    return parser


# Each command imports what it needs: --help needs none of it.


def _keygen(options: argparse.Namespace) -> int:
    from invarlock.packer.keys import fingerprint, make_signing_key, write_key_pair

    key = make_signing_key()
    private, public = write_key_pair(options.name, key)
    print(f"private key: {private} (keep it secret)\npublic key:  {public}\nfingerprint: {fingerprint(key.public)}")
    return 0


def _build(options: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from invarlock.packer.assembly import gather_files
    from invarlock.packer.build import build_pack
    from invarlock.packer.keys import load_signing_key

    key = None if options.signing_key is None else load_signing_key(options.signing_key)
    content = gather_files(
        reports=options.report,
        baselines=options.baseline,
        scenarios=options.scenarios,
        final_verdict=options.final_verdict,
        pytest_report=options.pytest_report,
        source_repo=options.source_repo,
        environment=options.environment,
        materials=options.material,
    )
    built = build_pack(options.out, content, key, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    print(f"built {built.path}: verdict {built.verdict}, evidence level {built.evidence_level}")
    print(f"signer: {built.fingerprint or 'none, the pack is not signed'}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from invarlock.packer.inspection import inspect_pack

    summary = inspect_pack(options.pack)
    if options.json:
        print(json.dumps(summary, indent=2, sort_keys=True))
        return 0
    checksums, reports = summary["checksums"], summary["reports"]
    print(f"{summary['pack']}: not verified, this is what it says of itself")
    print(f"verdict claimed: {summary['verdict_claimed']}, evidence level claimed: {summary['evidence_level_claimed']}")
    print(f"signature: {summary['signature']}; signer: {summary['signer_fingerprint']}")
    print(
        f"checksums: {checksums['files']} files, {len(checksums['missing'])} missing, "
        f"{len(checksums['uncovered'])} not covered"
    )
    print(f"reports: {reports['total']}, of them {reports['errors']} of faults; {summary['bytes']} bytes in all")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from invarlock.packer.trust import parse_fingerprint
    from invarlock.packer.verify import VerifyOptions, verify_pack

    if options.json_out is not None and options.json_out.resolve().is_relative_to(options.pack.resolve()):
        raise UsageError(f"--json-out: {options.json_out} lies in the pack; nothing is written into a pack")
    expected = None if options.expected_fingerprint is None else parse_fingerprint(options.expected_fingerprint)
    result = verify_pack(
        options.pack,
        VerifyOptions(
            strict=options.strict,
            report_assurance=options.report_assurance,
            expected_fingerprint=expected,
            trust_store=options.trust_store,
            require_pass=options.require_pass,
        ),
    )
    document = result.document()
    if options.json_out is not None:
        from invarlock.jsonio import write_json

        write_json(options.json_out, document)
    if options.json:
        print(json.dumps(document, indent=2, sort_keys=True))
    elif not options.quiet:
        print("\n".join(_verify_lines(result, document)))
    return result.code


def _verify_lines(result: VerifyResult, document: dict[str, Any]) -> list[str]:
    if not result.ok:
        shown = [f"  {error['where']}: {error['message']}" for error in result.errors]
        return [f"NOT VERIFIED (exit code {result.code}): {result.pack}", *shown]
    reports = len(result.envelope["results"]) if result.envelope else 0
    lines = [
        f"VERIFIED: {result.pack}",
        f"verdict: {document['verdict']}",
        f"evidence level: {document['evidence_level']}",
        f"signer: {document['signer_fingerprint'] or 'none'} ({document['authenticity']})",
        f"reports: {reports} verified, every derived number follows from the measurements",
    ]
    if result.options.report_assurance == "off":
        lines[-1] = "reports: not verified"
    return [*lines, *(f"warning: {warning}" for warning in result.warnings)]
