"""The packer's command line: ``python -m invarlock.packer keygen|build|merge|sign|verify|…``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from invarlock.packer import commands, receiver_commands, signing_commands

from invarlock.boundary import CommandParser, Commands, run_command
from invarlock.errors import InvarLockError
from invarlock.output import say_error, say_json
from invarlock.problems import ExitCode
from invarlock.problems.page import exit_codes_line
from invarlock.settings import unknown_variables

EXIT_CODES = exit_codes_line(*(code for code in ExitCode if code is not ExitCode.GATE))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    return run_options(_parser().parse_args(arguments))


def run_options(options: argparse.Namespace) -> int:
    """Run the command of a parsed command line and return its exit code.

    Raises:
        InvarLockError: when the command fails; with ``--json`` the error is printed as JSON first.
    """
    for line in unknown_variables(os.environ, own={getattr(options, "passphrase_env", None) or ""}):
        say_error(f"warning: {line}")
    try:
        return int(options.command(options))
    except InvarLockError as error:
        if getattr(options, "json", False):
            say_json(error.document())
        raise


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m invarlock.packer",
        description="Build, sign, inspect, verify and compare evidence packs.",
        epilog=EXIT_CODES,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in PACK_COMMANDS:
        add(subparsers)
    return parser


def add_keygen(subparsers: Commands) -> None:
    """Add the command ``keygen``."""
    parser = subparsers.add_parser("keygen", help="make an Ed25519 key pair: NAME.pem and NAME.pub.pem")
    parser.add_argument("name", type=Path, metavar="NAME", help="path of the key files, with or without .pem")
    parser.add_argument(
        "--passphrase-env",
        metavar="VAR",
        help="encrypt the private key with the passphrase in this environment variable",
    )
    parser.set_defaults(command=signing_commands.keygen)


def add_build(subparsers: Commands) -> None:
    """Add the command ``build``."""
    parser = subparsers.add_parser("build", help="build a pack from existing reports", epilog=EXIT_CODES)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the new pack; must not exist yet")
    parser.add_argument(
        "--final-verdict",
        type=Path,
        metavar="FILE",
        help="the run's final_verdict.json; without it the report must be one of invarlock evaluate, and its gates are "
        "the verdict",
    )
    parser.add_argument(
        "--report",
        type=Path,
        required=True,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="evaluation.report.json, or the folder that has it with its runtime.manifest.json and, unless the subject "
        "is served, edit_metadata.json",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="the baselines' own evaluation.report.json",
    )
    parser.add_argument(
        "--presets",
        type=Path,
        metavar="FOLDER",
        help="calibrated presets that the reports were judged with, and their null runs",
    )
    parser.add_argument(
        "--scenarios",
        type=Path,
        metavar="FILE",
        help="the effective manifest (state/scenarios.json); default: the one of the verdict's run",
    )
    parser.add_argument("--pytest-report", type=Path, metavar="FILE", help="the run's state/pytest_report.json")
    parser.add_argument(
        "--source-repo", type=Path, metavar="FILE", help="provenance of the source (state/source_repo.json)"
    )
    parser.add_argument(
        "--environment", type=Path, metavar="FILE", help="provenance of the environment (state/environment.json)"
    )
    parser.add_argument(
        "--material", nargs="+", action="extend", default=[], metavar="NAME=FILE", help="further files to seal"
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="a text of yours, appended to the README")
    parser.add_argument(
        "--signing-key",
        type=Path,
        metavar="FILE",
        help="private key that signs the manifest; without it the pack stays unsigned ('sign' signs it later)",
    )
    _add_passphrase(parser)
    _add_json(parser, "the pack that was built, or the problems")
    parser.set_defaults(command=commands.build)


def add_merge(subparsers: Commands) -> None:
    """Add the command ``merge``."""
    parser = subparsers.add_parser(
        "merge", help="merge the shards of a run into one verdict and one pack", epilog=EXIT_CODES
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="the run directories of all shards, in any order"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="the merged run directory; must not exist yet; the pack is its evidence_pack folder",
    )
    key = parser.add_mutually_exclusive_group()
    key.add_argument(
        "--signing-key",
        type=Path,
        metavar="FILE",
        help="private key that signs the pack; without it a temporary key is made and discarded",
    )
    key.add_argument("--unsigned", action="store_true", help="do not sign the pack; 'sign' adds the signature later")
    parser.add_argument("--require-pass", action="store_true", help="exit with code 7 unless the verdict is PASS")
    _add_passphrase(parser)
    _add_json(parser, "the merged run, or the problems")
    parser.set_defaults(command=commands.merge)


def add_sign(subparsers: Commands) -> None:
    """Add the command ``sign``."""
    parser = subparsers.add_parser(
        "sign", help="verify a pack and sign it, or time-stamp its signature", epilog=EXIT_CODES
    )
    _add_pack_and_key(parser, required=False)
    parser.add_argument(
        "--timestamp-url",
        metavar="URL",
        help="also get a time stamp (RFC 3161) of the signature from this authority, which learns only its digest; "
        "without --signing-key the pack must be signed already",
    )
    parser.set_defaults(command=signing_commands.sign)


def add_attest(subparsers: Commands) -> None:
    """Add the command ``attest``."""
    parser = subparsers.add_parser(
        "attest", help="verify a signed pack and add an in-toto attestation by its signer", epilog=EXIT_CODES
    )
    _add_pack_and_key(parser, required=False)
    parser.add_argument(
        "--predicate",
        choices=("invarlock", "svr", "test-result"),
        default="invarlock",
        help="invarlock: the verdict and the gates of each case (default); svr: in-toto Simple Verification Result; "
        "test-result: in-toto Test Result",
    )
    for option, what in (
        ("--predicate-out", "predicate (JSON)"),
        ("--subjects-out", "subjects (as sha256sum prints them)"),
    ):
        parser.add_argument(
            option,
            type=Path,
            metavar="FILE",
            help=f"without --signing-key: write the {what} of the statement for another signer, such as actions/attest",
        )
    parser.add_argument(
        "--checkpoint-files",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="output of sha256sum over the weight, config and tokenizer files of a subject, made in its folder; the "
        "statement then names each of them; may be repeated",
    )
    parser.set_defaults(command=signing_commands.attest)


def _add_pack_and_key(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("pack", type=Path, metavar="PACK", help="folder of the pack")
    parser.add_argument("--signing-key", type=Path, required=required, metavar="FILE", help="Ed25519 private key (PEM)")
    _add_passphrase(parser)


def _add_passphrase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--passphrase-env", metavar="VAR", help="environment variable with the passphrase of an encrypted key"
    )


def _add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"print {what}, as JSON")


def add_trust(subparsers: Commands) -> None:
    """Add the command ``trust``."""
    parser = subparsers.add_parser("trust", help="manage the signers that you trust")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    add = actions.add_parser(
        "add",
        help="trust a signer",
        description="Add a signer to the trust store, which is created if it does not exist. "
        "'verify' then accepts only packs of signers in it.",
    )
    add.add_argument("signer", metavar="SIGNER", help="sha256:HEX, or the signer's .pub.pem file")
    add.add_argument("--name", metavar="TEXT", help="name of the signer")
    add.add_argument("--not-before", metavar="TIME", help="trusted from this time on, for example 2026-01-31T12:00:00Z")
    add.add_argument("--not-after", metavar="TIME", help="trusted until this time")
    add.set_defaults(command=signing_commands.trust_add)
    show = actions.add_parser(
        "list",
        help="list the signers and whether each is trusted now",
        description="List the signers in the trust store: fingerprint, name, and whether each is trusted now.",
    )
    show.add_argument("--json", action="store_true")
    show.set_defaults(command=signing_commands.trust_list)
    revoke = actions.add_parser(
        "revoke",
        help="revoke a signer, for packs of any date",
        description="Mark a signer in the trust store as revoked; a revocation is permanent.",
    )
    revoke.add_argument("signer", metavar="SIGNER", help="sha256:HEX, or the signer's .pub.pem file")
    revoke.add_argument(
        "--since",
        metavar="TIME",
        help="when its key could first have been misused: packs whose time stamp is earlier stay trusted",
    )
    revoke.set_defaults(command=signing_commands.trust_revoke)
    for action in (add, show, revoke):
        action.add_argument(
            "--trust-store", type=Path, metavar="FILE", help="default: ~/.config/invarlock/trusted-signers.json"
        )


def add_inspect(subparsers: Commands) -> None:
    """Add the command ``inspect``."""
    parser = subparsers.add_parser("inspect", help="summarise a pack without verifying its reports", epilog=EXIT_CODES)
    parser.add_argument("pack", type=Path, metavar="PACK", help="folder of the pack")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(command=commands.inspect)


def add_verify(subparsers: Commands) -> None:
    """Add the command ``verify``."""
    parser = subparsers.add_parser("verify", help="verify packs, offline", epilog=EXIT_CODES)
    parser.add_argument(
        "packs", type=Path, nargs="+", metavar="PACK", help="pack folders; the exit code is the worst of them"
    )
    add_verify_options(parser)
    parser.set_defaults(command=commands.verify)


def add_verify_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for verifying packs."""
    parser.add_argument("--strict", action="store_true", help="reject files that the checksums do not cover")
    parser.add_argument(
        "--report-assurance",
        choices=("report", "strict", "off"),
        default="report",
        help="report: recompute every claim (default); strict: also require that every clean report was made in a "
        "container; off: check only bytes and signature",
    )
    parser.add_argument(
        "--expected-fingerprint",
        metavar="sha256:HEX",
        help="fingerprint of the expected signer; it need not be in the default trust store, but that store must not "
        "list it as revoked or outside its dates",
    )
    parser.add_argument(
        "--trust-store",
        type=Path,
        metavar="FILE",
        help="trusted signers; default: ~/.config/invarlock/trusted-signers.json, if it exists; with "
        "--expected-fingerprint, the signer must also be in this store",
    )
    parser.add_argument(
        "--timestamp-certificate",
        type=Path,
        metavar="FILE",
        help="root certificate (PEM) of a time-stamping authority: require a time stamp of the signature by it, and "
        "check the signer's validity at the stamped time",
    )
    _add_allow_unsigned(parser)
    parser.add_argument("--at", metavar="TIME", help="check the signer's validity at this time instead of now")
    parser.add_argument("--require-pass", action="store_true", help="exit with code 7 unless the verdict is PASS")
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="exit with code 7 unless the pack meets this policy (JSON; see docs/receivers.md)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON (a list for several packs)")
    parser.add_argument(
        "--json-out",
        type=Path,
        metavar="FILE",
        help="also write the result to this file, which must be outside the packs",
    )
    parser.add_argument(
        "--receipt",
        type=Path,
        metavar="FILE",
        help="also write a signed statement of this verification, so that others need not repeat it; needs "
        "--receipt-key",
    )
    parser.add_argument("--receipt-key", type=Path, metavar="FILE", help="private key of the receiver")
    _add_passphrase(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing; use the exit code")


def add_verify_receipt(subparsers: Commands) -> None:
    """Add the command ``verify-receipt``."""
    parser = subparsers.add_parser(
        "verify-receipt",
        help="check a receipt: a receiver's signed statement that packs were verified",
        epilog=EXIT_CODES,
    )
    parser.add_argument("receipt", type=Path, metavar="RECEIPT", help="receipt written by verify --receipt")
    parser.add_argument("packs", type=Path, nargs="*", metavar="PACK", help="packs that the receipt must accept")
    parser.add_argument(
        "--public-key", type=Path, required=True, metavar="FILE", help="public key of the receiver who wrote it"
    )
    _add_json(parser, "the statement of the receipt, or the problems")
    parser.set_defaults(command=commands.verify_receipt)


def add_bom(subparsers: Commands) -> None:
    """Add the command ``bom``."""
    parser = subparsers.add_parser(
        "bom",
        help="verify a pack and write a CycloneDX BOM of a subject, with its baseline and measurements",
        epilog=EXIT_CODES,
    )
    _add_subject(parser)
    parser.set_defaults(command=receiver_commands.bom)


def add_card(subparsers: Commands) -> None:
    """Add the command ``card``."""
    parser = subparsers.add_parser(
        "card",
        help="verify a pack and write a model-card section about a subject, with metadata for the hub",
        epilog=EXIT_CODES,
    )
    _add_subject(parser)
    parser.add_argument(
        "--without-metadata", action="store_true", help="write only the section, for a README that already has metadata"
    )
    parser.set_defaults(command=receiver_commands.card)


def _add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the options shared by commands that write a document about one subject of a pack."""
    parser.add_argument("pack", type=Path, metavar="PACK", help="folder of the pack")
    parser.add_argument(
        "--case",
        metavar="ID",
        help="the case of the subject, such as mistral-tiny-quant_4bit_clean; required if several subjects must pass; "
        "the document covers all runs of the subject",
    )
    parser.add_argument("--name", metavar="TEXT", help="name of the model; default: the case")
    parser.add_argument("--pack-url", metavar="URL", help="https address where others can get the pack")
    parser.add_argument(
        "--checkpoint-files",
        type=Path,
        metavar="FILE",
        help="output of sha256sum over the weight, config and tokenizer files of the subject, made in its folder; the "
        "document then names each of them",
    )
    parser.add_argument("--expected-fingerprint", metavar="sha256:HEX", help="refuse a pack of another signer")
    _add_allow_unsigned(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to this file instead of standard output")


def _add_allow_unsigned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-unsigned",
        action="store_true",
        help="accept an unsigned pack instead of exiting with code 5; its origin is then unknown",
    )


def add_diff(subparsers: Commands) -> None:
    """Add the command ``diff``."""
    parser = subparsers.add_parser(
        "diff",
        help="verify two packs or two reports and show what changed from the first to the second",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "first",
        type=Path,
        metavar="A",
        help="folder of the first pack; or the first evaluation.report.json, or the output folder of evaluate",
    )
    parser.add_argument("second", type=Path, metavar="B", help="the second one, of the same kind")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the differences as a page for browsers")
    _add_allow_unsigned(parser)
    parser.set_defaults(command=commands.diff)


PACK_COMMANDS = (
    add_keygen, add_build, add_merge, add_sign, add_attest, add_trust, add_inspect, add_verify, add_verify_receipt,
    add_diff, add_bom, add_card,
)  # fmt: skip
