"""Allows a deployment only if a signed evidence pack with verdict PASS is about exactly these checkpoint files.

It needs the core alone, without PyTorch::

    python examples/deployment_gate.py PACK CHECKPOINT --signer sha256:…

The exit code is 0 if the deployment is allowed, else that of the pack's first problem, or 1.
"""

import argparse
import sys
from pathlib import Path

from invarlock.api import VerifyOptions, verify_pack
from invarlock.checkpoints.digests import digest_checkpoint
from invarlock.jsonio import read_json


def gate(pack: Path, checkpoint: Path, signer: str) -> tuple[int, str]:
    """Return an exit code and the reason in one line."""
    options = VerifyOptions(strict=True, require_pass=True, expected_fingerprint=signer)
    result = verify_pack(pack, options)
    if result.problems:
        return int(result.code), f"refused: {result.problems[0].message}"
    # the pack is verified, so its reports can be read without further checks
    reports = pack.glob("reports/**/evaluation.report.json")
    measured = {read_json(report).get("subject", {}).get("digest") for report in reports}
    if (digest := digest_checkpoint(checkpoint)) not in measured:
        return 1, f"refused: no report of {pack} is about {checkpoint} ({digest})"
    return 0, f"allowed: {checkpoint} ({digest})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--signer", required=True, help="fingerprint of the trusted key, sha256:…")
    options = parser.parse_args()
    code, reason = gate(options.pack, options.checkpoint, options.signer)
    print(reason)
    return code


if __name__ == "__main__":
    sys.exit(main())
