"""What each command of the packer does with its options: calls the function that does the work, and prints.

Each command imports what it needs: ``--help`` needs none of it.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.errors import ReportError, UsageError, printable

if TYPE_CHECKING:
    from invarlock.packer.keys import SigningKey
    from invarlock.packer.verify import VerifyResult


def keygen(options: Namespace) -> int:
    from invarlock.packer.keys import fingerprint, make_signing_key, write_key_pair

    key = make_signing_key()
    private, public = write_key_pair(options.name, key, _passphrase(options))
    kept = "keep it secret" if options.passphrase_env is None else "encrypted"
    print(f"private key: {private} ({kept})\npublic key:  {public}\nfingerprint: {fingerprint(key.public)}")
    return 0


def build(options: Namespace) -> int:
    from datetime import UTC, datetime

    from invarlock.packer.assembly import gather_files
    from invarlock.packer.build import build_pack

    key = None if options.signing_key is None else _signing_key(options)
    # a run directory has its verdict in reports/ and its manifest in state/
    run = options.final_verdict.resolve().parent.parent
    content = gather_files(
        reports=options.report,
        baselines=options.baseline,
        presets=options.presets,
        scenarios=options.scenarios or run / "state" / "scenarios.json",
        final_verdict=options.final_verdict,
        pytest_report=options.pytest_report,
        source_repo=options.source_repo,
        environment=options.environment,
        materials=options.material,
        readme_notes=options.readme,
    )
    built = build_pack(options.out, content, key, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    print(f"built {built.path}: verdict {built.verdict}, evidence level {built.evidence_level}")
    print(f"signer: {built.fingerprint or 'none; sign it with: python -m invarlock.packer sign'}")
    return 0


def merge(options: Namespace) -> int:
    from datetime import UTC, datetime

    from invarlock.packer.keys import make_signing_key
    from invarlock.packer.merging import merge_runs

    made = options.signing_key is None and not options.unsigned
    key = None if options.unsigned else make_signing_key() if made else _signing_key(options)
    merged = merge_runs(options.runs, options.output, key, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    origin = " (a key made for this run and not kept; --signing-key signs with yours)" if made else ""
    print("\n".join(printable(line) for line in merged.lines))
    print(f"merged {len(options.runs)} shards: {merged.path}\nverdict:        {merged.verdict}")
    print(f"evidence pack:  {merged.pack.path}\nevidence level: {merged.pack.evidence_level}")
    print(f"signer:         {merged.pack.fingerprint or 'none, the pack is not signed'}{origin}")
    if options.require_pass and merged.verdict != "PASS":
        raise ReportError(f"{merged.path}: the verdict is {merged.verdict}, --require-pass asks for PASS")
    return 0


def sign(options: Namespace) -> int:
    from invarlock.packer.signing import sign_pack

    signer = sign_pack(options.pack, _signing_key(options))
    print(f"signed {options.pack}\nsigner: {signer}")
    return 0


def attest(options: Namespace) -> int:
    from invarlock.packer.signing import attest_pack

    signer = attest_pack(options.pack, _signing_key(options))
    print(f"attested {options.pack}\nsigner: {signer}")
    return 0


def trust_add(options: Namespace) -> int:
    from invarlock.packer.trust import TrustedSigner, parse_moment
    from invarlock.packer.trust_editing import add_signer, fingerprint_of

    signer = TrustedSigner(
        fingerprint_of(options.signer),
        options.name,
        None if options.not_before is None else parse_moment(options.not_before),
        None if options.not_after is None else parse_moment(options.not_after),
    )
    add_signer(_store(options), signer)
    print(f"trusted: {signer.fingerprint} in {_store(options)}")
    return 0


def trust_list(options: Namespace) -> int:
    from datetime import UTC, datetime

    from invarlock.packer.trust import read_trust_store

    store = _store(options)
    if not store.exists() and options.trust_store is None:
        print("[]" if options.json else f"no signer is trusted: there is no {store}; add one with 'trust add'")
        return 0
    signers = read_trust_store(store)
    now = datetime.now(UTC)
    rows = [
        {"fingerprint": signer.fingerprint, "name": signer.name, "refused": signer.refuses(now)} for signer in signers
    ]
    if options.json:
        print(json.dumps(rows, indent=2, sort_keys=True))
        return 0
    for row in rows:
        print(f"{row['fingerprint']}  {printable(str(row['name'] or '-'))}  {row['refused'] or 'trusted'}")
    print(f"{len(rows)} signers in {store}")
    return 0


def trust_revoke(options: Namespace) -> int:
    from invarlock.packer.trust_editing import fingerprint_of, revoke_signer

    signer = fingerprint_of(options.signer)
    known = revoke_signer(_store(options), signer)
    print(f"revoked: {signer}" + ("" if known else " (it was not in the store; it is now, as revoked)"))
    return 0


def inspect(options: Namespace) -> int:
    from invarlock.packer.inspection import inspect_pack

    summary = inspect_pack(options.pack)
    if options.json:
        print(json.dumps(summary, indent=2, sort_keys=True))
        return 0
    checksums, reports, ready = summary["checksums"], summary["reports"], summary["strict_readiness"]
    print(f"{summary['pack']}: not verified, this is what it says of itself")
    claimed = printable(str(summary["verdict_claimed"]))
    print(f"verdict claimed: {claimed}, evidence level claimed: {summary['evidence_level_claimed']}")
    print(f"signature: {printable(summary['signature'])}; signer: {summary['signer_fingerprint']}")
    print(
        f"checksums: {checksums['files']} files, {len(checksums['missing'])} missing, "
        f"{len(checksums['uncovered'])} not covered"
    )
    print(
        f"reports: {reports['total']}, of them {reports['errors']} of faults, {reports['in_container']} from a "
        f"container; {summary['bytes']} bytes in all"
    )
    print(f"ready for strict: {'yes' if ready['ready'] else 'no, ' + printable('; '.join(ready['against']))}")
    return 0


def verify(options: Namespace) -> int:
    from invarlock.packer.progress import ProgressLine
    from invarlock.packer.trust import default_store, parse_fingerprint, parse_moment
    from invarlock.packer.verify import VerifyOptions, verify_pack

    for pack in options.packs:
        if options.json_out is not None and options.json_out.resolve().is_relative_to(pack.resolve()):
            raise UsageError(f"--json-out: {options.json_out} lies in the pack; nothing is written into a pack")
    wanted = VerifyOptions(
        strict=options.strict,
        report_assurance=options.report_assurance,
        expected_fingerprint=None
        if options.expected_fingerprint is None
        else parse_fingerprint(options.expected_fingerprint),
        trust_store=options.trust_store,
        # who looks at an unsigned pack still learns that the signer of a signed one is revoked
        default_store=default_store() if options.trust_store is None else None,
        allow_unsigned=options.allow_unsigned,
        require_pass=options.require_pass,
        at=None if options.at is None else parse_moment(options.at),
    )
    results = []
    for pack in options.packs:
        with ProgressLine(sys.stderr, f"verifying {pack.name}") as progress:
            results.append(verify_pack(pack, wanted, None if options.quiet else progress.start))
    documents = [result.document() for result in results]
    document = documents[0] if len(documents) == 1 else documents
    if options.json_out is not None:
        _write_result(options.json_out, document)
    if options.json:
        print(json.dumps(document, indent=2, sort_keys=True))
    elif not options.quiet:
        print("\n\n".join("\n".join(_verify_lines(result)) for result in results))
    return max(result.code for result in results)


def diff(options: Namespace) -> int:
    from invarlock.packer.diffing import diff_verdicts, render_diff
    from invarlock.packer.verify import VerifyOptions, verify_pack

    verdicts, signed = [], []
    for pack in (options.first, options.second):
        result = verify_pack(pack, VerifyOptions(allow_unsigned=options.allow_unsigned))
        if not result.holds:
            print("\n".join(_verify_lines(result)), file=sys.stderr)
            return result.code
        if result.verdict_document is None:
            raise UsageError(f"{pack}: it claims no verdict, there is nothing to compare")
        verdicts.append(result.verdict_document)
        signed.append(result.signed)
    found = {**diff_verdicts(*verdicts), "signed": signed}
    text = json.dumps(found, indent=2, sort_keys=True) if options.json else render_diff(found)
    print("\n".join(map(printable, text.split("\n"))))
    return 0


def _verify_lines(result: VerifyResult) -> list[str]:
    """Return what a person is told: first whether it holds, then what it says, then what to mind."""
    if not result.holds:
        shown = [f"  {error['where']}: {error['message']}" for error in result.errors]
        return [f"NOT VERIFIED (exit code {result.code}): {result.pack}", *shown]
    reports = len(result.envelope["results"]) if result.envelope else 0
    derived = f"reports: {reports} verified, every derived number follows from the measurements"
    strong = "yes" if result.strong else f"no, missing: {'; '.join(result.missing_for_strong)}"
    headline = "VERIFIED" if result.signed else "NOT SIGNED, though what was checked holds"
    signer = f"{result.signer} ({result.authenticity})" if result.signed else "none: anybody could have made this pack"
    return [
        f"{headline}: {result.pack}",
        f"verdict: {result.verdict or 'none'}",
        f"strong evidence: {strong}",
        f"evidence level: {result.evidence_level or 'not stated'}",
        f"signer: {signer}{', attested' if result.attested else ''}",
        derived if result.reports_verified else "reports: not verified",
        *(f"warning: {printable(warning)}" for warning in result.warnings),
    ]


def _write_result(path: Path, document: object) -> None:
    from invarlock.jsonio import write_json

    try:
        write_json(path, document)
    except OSError as error:
        raise UsageError(f"--json-out: {path} cannot be written ({error.strerror})") from None


def _passphrase(options: Namespace) -> bytes | None:
    from invarlock.packer.keys import passphrase_from

    return None if options.passphrase_env is None else passphrase_from(options.passphrase_env)


def _signing_key(options: Namespace) -> SigningKey:
    from invarlock.packer.keys import load_signing_key

    return load_signing_key(options.signing_key, _passphrase(options))


def _store(options: Namespace) -> Path:
    from invarlock.packer.trust import DEFAULT_STORE

    return options.trust_store or DEFAULT_STORE.expanduser()
