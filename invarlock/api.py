"""The public Python API; everything else may change without notice. ``docs/api.md`` has an example.

``evaluate``, ``verify`` and ``Evaluation`` are also names of ``invarlock`` itself. Names are imported when they are
first used: evaluating needs PyTorch, verifying does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from invarlock.errors import InvarLockError, UsageError
from invarlock.problems import Code, ExitCode, Problem

if TYPE_CHECKING:
    from invarlock.documents.reports import Report
    from invarlock.evaluation.pair import evaluate_pair
    from invarlock.evaluation.pair_request import PairRequest
    from invarlock.packer.build.assembly import gather_files
    from invarlock.packer.build.building import BuiltPack, PackContent, build_pack
    from invarlock.packer.build.signing import sign_pack
    from invarlock.packer.inspection import inspect_pack
    from invarlock.packer.runs.lone_reports import ReportResult
    from invarlock.packer.trust.keys import SigningKey, load_signing_key, make_signing_key
    from invarlock.packer.verify.options import VerifyOptions
    from invarlock.packer.verify.result import VerifyResult
    from invarlock.packer.verify.verifying import verify_pack
    from invarlock.reports.verification import verify_report

_MODULES = {
    "PairRequest": "evaluation.pair_request",
    "evaluate_pair": "evaluation.pair",
    "verify_report": "reports.verification",
    "verify_pack": "packer.verify.verifying",
    "VerifyOptions": "packer.verify.options",
    "VerifyResult": "packer.verify.result",
    "ReportResult": "packer.runs.lone_reports",
    "inspect_pack": "packer.inspection",
    "gather_files": "packer.build.assembly",
    "PackContent": "packer.build.building",
    "build_pack": "packer.build.building",
    "BuiltPack": "packer.build.building",
    "sign_pack": "packer.build.signing",
    "SigningKey": "packer.trust.keys",
    "load_signing_key": "packer.trust.keys",
    "make_signing_key": "packer.trust.keys",
}

__all__ = [
    "BuiltPack",
    "Code",
    "Evaluation",
    "ExitCode",
    "InvarLockError",
    "PackContent",
    "PairRequest",
    "Problem",
    "ReportResult",
    "SigningKey",
    "VerifyOptions",
    "VerifyResult",
    "build_pack",
    "evaluate",
    "evaluate_pair",
    "gather_files",
    "inspect_pack",
    "load_signing_key",
    "make_signing_key",
    "sign_pack",
    "verify",
    "verify_pack",
    "verify_report",
]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        path: the file of the report.
        report: the document, which ``contracts/evaluation_report.schema.json`` describes.
        problems: a problem for each gate that failed; empty if the verdict is PASS.
    """

    path: Path
    report: Report
    problems: tuple[Problem, ...]

    @property
    def verdict(self) -> str:
        """PASS if every gate passes, otherwise FAIL."""
        return self.report["assurance"]["verdict"]

    @property
    def passed(self) -> bool:
        """Whether the verdict is PASS."""
        return self.verdict == "PASS"

    @property
    def page(self) -> Path:
        """The path of the report's HTML page."""
        # imported here: importing the API must stay light
        from invarlock.reports.sidecars import PAGE_NAME

        return self.path.with_name(PAGE_NAME)


def evaluate(
    baseline: Path | str,
    subject: Path | str,
    text: Path | str | Mapping[str, Path | str],
    output_dir: Path | str,
    *,
    profile: str = "dev",
    tier: str = "balanced",
    intent: str = "preserve",
    seq_len: int = 512,
    preview_windows: int | None = None,
    final_windows: int | None = None,
    seed: int = 0,
    device: str | None = None,
    baseline_report: Path | str | None = None,
    preset: Path | str | None = None,
) -> Evaluation:
    """Compare two checkpoints on disk, write the report into a new folder and return the result.

    ``evaluate_pair`` takes the other options of ``invarlock evaluate``. Cheap checks run before PyTorch is imported.

    Args:
        baseline: the folder of the original checkpoint.
        subject: the folder of the edited checkpoint, or a GGUF file.
        text: a text on which neither model was trained, or several texts by name; each of several is a slice that is
            judged separately.
        output_dir: the folder to write, which must not exist.
        profile: ``dev``, ``ci`` or ``release``; it sets how many windows are scored.
        tier: ``conservative``, ``balanced`` or ``aggressive``; it sets the limits.
        intent: ``preserve``, or ``change`` for fine-tunes and merges.
        seq_len: the number of tokens in a window.
        preview_windows: the number of preview windows; the profile has the default.
        final_windows: the number of final windows; the profile has the default.
        seed: the seed of the draw of windows.
        device: ``cpu`` or ``cuda``; by default a GPU if there is one.
        baseline_report: an earlier report of the same baseline, to reuse, or the folder that it lies in.
        preset: the baseline's preset of limits.

    Raises:
        InvarLockError: when an input cannot be used; a failed gate is a problem in the result instead.
    """
    # imported here: importing the API must stay light, and unusable input must be found without PyTorch
    from invarlock.evaluation.early_checks import check_pair
    from invarlock.evaluation.pair_request import PairRequest
    from invarlock.reports.gates import judge_gates
    from invarlock.reports.sidecars import REPORT_NAME, report_file

    request = PairRequest(
        baseline=Path(baseline),
        subject=Path(subject),
        text={name: Path(path) for name, path in text.items()} if isinstance(text, Mapping) else Path(text),
        profile=profile,
        tier=tier,
        intent=intent,
        seq_len=seq_len,
        preview_windows=preview_windows,
        final_windows=final_windows,
        seed=seed,
        device=device,
        baseline_report=None if baseline_report is None else report_file(Path(baseline_report)),
        preset=None if preset is None else Path(preset),
    )
    target = Path(output_dir)
    check_pair(request, target)
    # imported here because it imports PyTorch
    from invarlock.evaluation.pair import evaluate_pair

    report, path = evaluate_pair(request, target), target / REPORT_NAME
    problems = tuple(
        Problem(Code.GATE_FAILED, str(path), f"validation.{gate.flag}", f"{gate.measured}, limit {gate.limit}")
        for gate in judge_gates(report, report["resolved_policy"])
        if gate.blocks and not gate.holds
    )
    return Evaluation(path, report, problems)


def verify(
    path: Path | str,
    options: VerifyOptions | None = None,
    *,
    baseline_report: Path | str | None = None,
    preset: Path | str | None = None,
) -> VerifyResult | ReportResult:
    """Verify a pack or a report, offline and without PyTorch; the result lists any problems.

    Args:
        path: a pack, a report's file, or the folder that ``evaluate`` wrote.
        options: for a pack, the receiver's requirements.
        baseline_report: for a report, the report of its baseline, which is compared too, or the folder that it lies in.
        preset: for a report, the preset that its limits come from, to recompute them.

    Raises:
        InvarLockError: when the options do not apply to this kind of path or exclude each other, or a file that they
            name cannot be used.
    """
    # imported here: importing the API must stay light
    from invarlock.packer.runs.lone_reports import ReportReferences, report_at, verify_report_file
    from invarlock.packer.verify.options import VerifyOptions
    from invarlock.packer.verify.verifying import verify_pack

    found = report_at(Path(path))
    foreign = baseline_report is not None or preset is not None if found is None else options is not None
    if foreign:
        kinds = ("pack", "report") if found is None else ("report", "pack")
        raise UsageError(
            f"a {kinds[0]} with options of a {kinds[1]}; leave them out", code=Code.OPTIONS_CONFLICT, where=str(path)
        )
    if found is None:
        return verify_pack(Path(path), options or VerifyOptions())
    first, second = (None if given is None else Path(given) for given in (baseline_report, preset))
    return verify_report_file(found, ReportReferences.read(first, second))


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"invarlock.{_MODULES[name]}"), name)
    return found
