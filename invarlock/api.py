"""The public Python API; everything else may change without notice. ``docs/api.md`` has an example.

Names are imported when they are first used: evaluating needs PyTorch, verifying does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invarlock.errors import InvarLockError
    from invarlock.evaluation.pair import evaluate_pair
    from invarlock.evaluation.pair_request import PairRequest
    from invarlock.packer.build.assembly import gather_files
    from invarlock.packer.build.building import BuiltPack, PackContent, build_pack
    from invarlock.packer.build.signing import sign_pack
    from invarlock.packer.inspection import inspect_pack
    from invarlock.packer.trust.keys import SigningKey, load_signing_key, make_signing_key
    from invarlock.packer.verify.options import VerifyOptions
    from invarlock.packer.verify.result import VerifyResult
    from invarlock.packer.verify.verifying import verify_pack
    from invarlock.problems import Code, ExitCode, Problem
    from invarlock.reports.verification import verify_report

_MODULES = {
    "PairRequest": "evaluation.pair_request",
    "evaluate_pair": "evaluation.pair",
    "verify_report": "reports.verification",
    "verify_pack": "packer.verify.verifying",
    "VerifyOptions": "packer.verify.options",
    "VerifyResult": "packer.verify.result",
    "inspect_pack": "packer.inspection",
    "gather_files": "packer.build.assembly",
    "PackContent": "packer.build.building",
    "build_pack": "packer.build.building",
    "BuiltPack": "packer.build.building",
    "sign_pack": "packer.build.signing",
    "SigningKey": "packer.trust.keys",
    "load_signing_key": "packer.trust.keys",
    "make_signing_key": "packer.trust.keys",
    "Problem": "problems",
    "Code": "problems",
    "ExitCode": "problems",
    "InvarLockError": "errors",
}

__all__ = [
    "BuiltPack",
    "Code",
    "ExitCode",
    "InvarLockError",
    "PackContent",
    "PairRequest",
    "Problem",
    "SigningKey",
    "VerifyOptions",
    "VerifyResult",
    "build_pack",
    "evaluate_pair",
    "gather_files",
    "inspect_pack",
    "load_signing_key",
    "make_signing_key",
    "sign_pack",
    "verify_pack",
    "verify_report",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"invarlock.{_MODULES[name]}"), name)
    return found
