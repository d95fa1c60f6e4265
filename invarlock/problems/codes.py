"""The codes of problems, with the exit code, the meaning and the remedy of each.

Codes are stable: one may be added, and none changes its meaning. The page ``docs/problems.md`` is written from here.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Self


class ExitCode(IntEnum):
    """How commands end; the checks of a pack run in this order from ``MISSING`` to ``REPORT``."""

    def __new__(cls, number: int, meaning: str) -> Self:
        """Return a member whose value is the number."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    meaning: str

    OK = 0, "verified, or built, inspected, generated; of evaluate: every gate holds"
    GATE = 1, "evaluate only: a gate does not hold"
    USAGE = 2, "invalid usage, input that cannot be used, or output that cannot be written"
    MISSING = 3, "a pack or a file is missing"
    MANIFEST = 4, "the manifest is malformed"
    SIGNATURE = 5, "no signature, a wrong one, or a signer who is not trusted"
    INTEGRITY = 6, "the bytes of a pack are not those that were sealed"
    REPORT = 7, "a report, a result or a claim does not follow from the raw measurements"


_AGAIN = "Get the whole pack again from its maker. If it stays so, ask them: the pack is not what they sealed."
_MAKER = (
    "Do not rely on the pack. Ask its maker for one that was built by `python -m invarlock.packer build` or `merge` "
    "and not changed after that."
)
_OWN_FILE = "Open the file at the place that the message names, mend it, and run the command again."


class Code(StrEnum):
    """What can be wrong, by subject."""

    def __new__(cls, code: str, exit_code: ExitCode, meaning: str, remedy: str) -> Self:
        """Return a member whose value is the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.exit_code = exit_code
        member.meaning = meaning
        member.remedy = remedy
        return member

    exit_code: ExitCode
    meaning: str
    remedy: str

    USAGE_INVALID = (
        "usage_invalid",
        ExitCode.USAGE,
        "An option, a variable or a combination of them cannot work.",
        "Change what the message names; `--help` lists the options and `docs/settings.md` the settings.",
    )
    OUTPUT_UNWRITABLE = (
        "output_unwritable",
        ExitCode.USAGE,
        "The result of a command cannot be written.",
        "Check the disk, the permissions and the pipe that the output goes to.",
    )
    DOCUMENT_MALFORMED = (
        "document_malformed",
        ExitCode.USAGE,
        "A JSON, YAML or TOML file that was given is malformed or does not match its schema.",
        _OWN_FILE,
    )
    CHECKPOINT_UNUSABLE = (
        "checkpoint_unusable",
        ExitCode.USAGE,
        "A checkpoint is incomplete, malformed, in a form that cannot be judged, or not the one that was pinned.",
        "Download or save the checkpoint again, or name another one.",
    )
    HUB_UNAVAILABLE = (
        "hub_unavailable",
        ExitCode.USAGE,
        "A model or a data set cannot be downloaded, or is not the one that was pinned.",
        "Check the network, the token and the pin; with a filled cache run offline.",
    )
    EDIT_NOT_APPLICABLE = (
        "edit_not_applicable",
        ExitCode.USAGE,
        "An edit or a fault cannot be applied to this checkpoint.",
        "Choose parameters that fit the shapes of the model, or another scope.",
    )
    MEASUREMENT_IMPOSSIBLE = (
        "measurement_impossible",
        ExitCode.USAGE,
        "A measurement cannot be made on this text or model.",
        "Give a longer text, shorter windows, or a model of a family that is supported.",
    )
    MEMORY_EXHAUSTED = (
        "memory_exhausted",
        ExitCode.USAGE,
        "A model, or one window of text, does not fit in the memory of its devices.",
        "Use a smaller batch or shorter windows, free the device, or use one with more memory.",
    )
    FILE_MISSING = (
        "file_missing",
        ExitCode.MISSING,
        "A file that a command needs is not there.",
        "Check the path; the message names what makes the file.",
    )
    PACK_MISSING = (
        "pack_missing",
        ExitCode.MISSING,
        "There is no evidence pack at the path given.",
        "Name the folder that holds `manifest.json`; unpack an archive first.",
    )
    CONTROL_FILE_MISSING = (
        "control_file_missing",
        ExitCode.MISSING,
        "A pack has no `manifest.json` or no `checksums.sha256`.",
        _AGAIN,
    )
    MANIFEST_MALFORMED = (
        "manifest_malformed",
        ExitCode.MANIFEST,
        "`manifest.json` is no strict JSON or does not match its schema.",
        _AGAIN,
    )
    SIGNATURE_MISSING = (
        "signature_missing",
        ExitCode.SIGNATURE,
        "Nobody signed the pack, so nothing says who made it.",
        "Ask the maker to sign it (`python -m invarlock.packer sign PACK --signing-key KEY.pem`). "
        "`--allow-unsigned` checks the rest of it all the same.",
    )
    SIGNATURE_MALFORMED = (
        "signature_malformed",
        ExitCode.SIGNATURE,
        "`manifest.signature.json` cannot be read, does not match its schema, or has a key that proves nothing.",
        _AGAIN,
    )
    SIGNATURE_DOES_NOT_HOLD = (
        "signature_does_not_hold",
        ExitCode.SIGNATURE,
        "The signature is not one over the bytes of `manifest.json`: one of the two was changed.",
        _AGAIN,
    )
    MANIFEST_LINE_ENDS_CHANGED = (
        "manifest_line_ends_changed",
        ExitCode.SIGNATURE,
        "The line ends of `manifest.json` were changed, so the signature does not hold for it.",
        "Get the pack as an archive, or clone it with `git -c core.autocrlf=false`.",
    )
    SIGNER_DIFFERS = (
        "signer_differs",
        ExitCode.SIGNATURE,
        "The manifest names another signer than the one whose key signed.",
        "Do not rely on the pack; ask the maker which key is theirs.",
    )
    SIGNER_NOT_EXPECTED = (
        "signer_not_expected",
        ExitCode.SIGNATURE,
        "The pack was signed by another key than `--expected-fingerprint`.",
        "Compare the fingerprint with the one that the maker published.",
    )
    SIGNER_UNKNOWN = (
        "signer_unknown",
        ExitCode.SIGNATURE,
        "The trust store does not have the signer.",
        "If you trust the signer: `python -m invarlock.packer trust add SIGNER`.",
    )
    SIGNER_REVOKED = (
        "signer_revoked",
        ExitCode.SIGNATURE,
        "The trust store has the signer as revoked.",
        "Do not rely on the pack; ask the maker for one that was signed by a key in use.",
    )
    SIGNER_OUT_OF_DATE = (
        "signer_out_of_date",
        ExitCode.SIGNATURE,
        "The signer is not trusted now, or was not when the pack was made.",
        "Look at `not_before` and `not_after` in the trust store; `--at TIME` judges at another time.",
    )
    ATTESTATION_MALFORMED = (
        "attestation_malformed",
        ExitCode.SIGNATURE,
        "`manifest.attestation.json` cannot be read or does not match its schema.",
        "Delete the attestation and let the signer attest the pack again.",
    )
    ATTESTATION_DOES_NOT_HOLD = (
        "attestation_does_not_hold",
        ExitCode.SIGNATURE,
        "The attestation is not signed, or not by the signer of the pack.",
        "Delete the attestation and let the signer attest the pack again.",
    )
    CHECKSUMS_MALFORMED = (
        "checksums_malformed",
        ExitCode.INTEGRITY,
        "`checksums.sha256` is not a list of digests and safe paths, each once.",
        _AGAIN,
    )
    CHECKSUMS_DIGEST_DIFFERS = (
        "checksums_digest_differs",
        ExitCode.INTEGRITY,
        "`checksums.sha256` is not the file that the manifest names by digest.",
        _AGAIN,
    )
    CHECKSUM_DIFFERS = (
        "checksum_differs",
        ExitCode.INTEGRITY,
        "The bytes of a file are not those of its checksum.",
        _AGAIN,
    )
    LINE_ENDS_CHANGED = (
        "line_ends_changed",
        ExitCode.INTEGRITY,
        "The line ends of a file were changed, perhaps by git.",
        "Get the pack as an archive, or clone it with `git -c core.autocrlf=false`.",
    )
    SEALED_FILE_MISSING = (
        "sealed_file_missing",
        ExitCode.INTEGRITY,
        "A file that has a checksum is not in the pack.",
        _AGAIN,
    )
    FILE_NOT_SEALED = (
        "file_not_sealed",
        ExitCode.INTEGRITY,
        "The pack has a file without a checksum. Without `--strict` that is a warning, except for pages.",
        "Delete the file, or get the pack again.",
    )
    PATH_UNSAFE = (
        "path_unsafe",
        ExitCode.INTEGRITY,
        "A path could lead out of the pack, or reads differently from what it is.",
        _MAKER,
    )
    PATHS_COLLIDE = (
        "paths_collide",
        ExitCode.INTEGRITY,
        "Two paths differ only by case or by Unicode normalisation.",
        _MAKER,
    )
    NOT_A_REGULAR_FILE = (
        "not_a_regular_file",
        ExitCode.INTEGRITY,
        "Something in a pack or a run directory is a link, a device, a pipe, or a folder where a file should be.",
        "Replace it by a copy of the file that it leads to, or get the pack again.",
    )
    FILE_UNREADABLE = (
        "file_unreadable",
        ExitCode.INTEGRITY,
        "A file of a pack cannot be read.",
        "Check its permissions and the disk.",
    )
    FILE_TOO_LARGE = (
        "file_too_large",
        ExitCode.INTEGRITY,
        "A file is larger than any that InvarLock writes in its place.",
        _MAKER,
    )
    FILE_CHANGED = (
        "file_changed",
        ExitCode.INTEGRITY,
        "A file changed while the pack was verified.",
        "Wait until nothing writes to the pack, or verify a copy of it.",
    )
    PACK_TOO_LARGE = (
        "pack_too_large",
        ExitCode.INTEGRITY,
        "A pack has more files, folders or bytes than a receiver looks at.",
        _MAKER,
    )
    ATTRIBUTES_DIFFER = (
        "attributes_differ",
        ExitCode.INTEGRITY,
        "`.gitattributes` says something else than `* -text`.",
        "Delete `.gitattributes`, or get the pack again.",
    )
    REFERENCE_DANGLES = (
        "reference_dangles",
        ExitCode.INTEGRITY,
        "The manifest names a file or a digest that the pack does not have.",
        _MAKER,
    )
    REFERENCE_DIFFERS = (
        "reference_differs",
        ExitCode.INTEGRITY,
        "The manifest has another digest for a file than the checksums.",
        _MAKER,
    )
    EDIT_METADATA_MISSING = (
        "edit_metadata_missing",
        ExitCode.INTEGRITY,
        "A report has no `edit_metadata.json` next to it.",
        _MAKER,
    )
    EDIT_METADATA_MALFORMED = (
        "edit_metadata_malformed",
        ExitCode.INTEGRITY,
        "An `edit_metadata.json` is no strict JSON or does not match its schema.",
        _MAKER,
    )
    EDIT_METADATA_DIFFERS = (
        "edit_metadata_differs",
        ExitCode.INTEGRITY,
        "An `edit_metadata.json` is not the one that the report and its scenario give.",
        _MAKER,
    )
    SHARD_CONTRADICTS_ITSELF = (
        "shard_contradicts_itself",
        ExitCode.INTEGRITY,
        "The cases of a shard are not those of its part of the run.",
        "Run the shard again in a new run directory.",
    )
    REPORT_MALFORMED = (
        "report_malformed",
        ExitCode.REPORT,
        "A report is no strict JSON, does not match its schema, or belongs to no planned case.",
        _MAKER,
    )
    RAW_MEASUREMENTS_CONTRADICT = (
        "raw_measurements_contradict",
        ExitCode.REPORT,
        "Raw measurements of one report cannot all be true.",
        _MAKER,
    )
    EDIT_CONTRADICTS_ITSELF = (
        "edit_contradicts_itself",
        ExitCode.REPORT,
        "The name, label and parameters of an edit are not those of its spec.",
        _MAKER,
    )
    CONTRACT_NOT_KEPT = (
        "contract_not_kept",
        ExitCode.REPORT,
        "Something was not measured by the measurement contract that stands next to it.",
        "Measure baseline and subject again with one version of InvarLock.",
    )
    NUMBER_DOES_NOT_FOLLOW = (
        "number_does_not_follow",
        ExitCode.REPORT,
        "A derived value is not the one that the raw measurements give.",
        _MAKER,
    )
    BASELINE_MISSING = (
        "baseline_missing",
        ExitCode.REPORT,
        "The pack does not have the report of the baseline that a report was measured against.",
        "Build the pack again with `--baseline FILE`.",
    )
    BASELINE_CONTRADICTS_ITSELF = (
        "baseline_contradicts_itself",
        ExitCode.REPORT,
        "A value of a baseline's report does not follow from the rest of it.",
        _MAKER,
    )
    BASELINE_DIFFERS = (
        "baseline_differs",
        ExitCode.REPORT,
        "The baseline's side of a report is not what the baseline's own report measured.",
        "Measure the subject against this baseline again.",
    )
    MODEL_DIFFERS = (
        "model_differs",
        ExitCode.REPORT,
        "A report or a preset is of another model than its place in the pack says.",
        _MAKER,
    )
    PRESET_DOES_NOT_FOLLOW = (
        "preset_does_not_follow",
        ExitCode.REPORT,
        "A preset is not the one that its null runs give.",
        "Calibrate the model again: `pytest suites --suite-mode calibrate-only`.",
    )
    PRESET_DIFFERS = (
        "preset_differs",
        ExitCode.REPORT,
        "A report was not judged by the preset that the pack has for its model.",
        "Judge the report by that preset, or build the pack with the preset that was used (`--presets FOLDER`).",
    )
    TUNED_PARAMETERS_DIFFER = (
        "tuned_parameters_differ",
        ExitCode.REPORT,
        "A clean edit was not made with the parameters that were selected for its model.",
        "Run the case again with the tuned parameters in the pack.",
    )
    RUNTIME_MANIFEST_DIFFERS = (
        "runtime_manifest_differs",
        ExitCode.REPORT,
        "A `runtime.manifest.json` is not that of the report in the same folder.",
        _MAKER,
    )
    TIMING_DIFFERS = (
        "timing_differs",
        ExitCode.REPORT,
        "An `evaluate_timing.json` is not the telemetry of the report in the same folder.",
        _MAKER,
    )
    PAGE_DIFFERS = (
        "page_differs",
        ExitCode.REPORT,
        "An `evaluation.html` is not the page that the report in the same folder gives.",
        "Delete the page, or render it again from the report.",
    )
    COMPANION_DIFFERS = (
        "companion_differs",
        ExitCode.REPORT,
        "A probe or a document of a deployable subject does not belong to its report or does not follow.",
        _MAKER,
    )
    REPEATS_DIFFER = (
        "repeats_differ",
        ExitCode.REPORT,
        "A `determinism_repeats.json` is not that of its report, or contradicts itself.",
        _MAKER,
    )
    FILE_MALFORMED = (
        "file_malformed",
        ExitCode.REPORT,
        "A file of a pack is no strict JSON or does not match its schema.",
        _MAKER,
    )
    FILE_ABSENT = (
        "file_absent",
        ExitCode.REPORT,
        "A file that follows from the reports, or that a report needs, is not in the pack.",
        _MAKER,
    )
    FILE_DOES_NOT_FOLLOW = (
        "file_does_not_follow",
        ExitCode.REPORT,
        "A file among reports, results or presets follows from none of them.",
        "Keep your own files elsewhere, or seal them with `build --material NAME=FILE`.",
    )
    FILE_NAME_MISLEADS = (
        "file_name_misleads",
        ExitCode.REPORT,
        "The name of a file looks like that of a file that is checked, and is another one.",
        "Rename the file.",
    )
    PLAN_MISSING = (
        "plan_missing",
        ExitCode.REPORT,
        "A pack with reports has no `metadata/scenarios.json` that can be read.",
        _MAKER,
    )
    PLAN_CONTRADICTS_ITSELF = (
        "plan_contradicts_itself",
        ExitCode.REPORT,
        "The selection, the cases and the scenarios in `metadata/scenarios.json` differ.",
        _MAKER,
    )
    PLAN_DIFFERS = (
        "plan_differs",
        ExitCode.REPORT,
        "A report or a baseline is not of the suite, the revision or the models that were planned.",
        _MAKER,
    )
    PYTEST_REPORT_CONTRADICTS_ITSELF = (
        "pytest_report_contradicts_itself",
        ExitCode.REPORT,
        "The summary of `metadata/pytest_report.json` is not that of its tests.",
        _MAKER,
    )
    RESULT_DOES_NOT_FOLLOW = (
        "result_does_not_follow",
        ExitCode.REPORT,
        "A verdict or a summary is not the one that follows from the reports.",
        _MAKER,
    )
    TOO_MANY_REPORTS = (
        "too_many_reports",
        ExitCode.REPORT,
        "A pack has more reports or null runs than a receiver looks at.",
        _MAKER,
    )
    MANIFEST_CLAIM_DOES_NOT_FOLLOW = (
        "manifest_claim_does_not_follow",
        ExitCode.REPORT,
        "The manifest claims something that the files of the pack do not give.",
        _MAKER,
    )
    EVIDENCE_LEVEL_TOO_HIGH = (
        "evidence_level_too_high",
        ExitCode.REPORT,
        "The manifest claims a higher level of evidence or assurance than the pack supports.",
        _MAKER,
    )
    REVIEW_NOT_SUPPORTED = (
        "review_not_supported",
        ExitCode.REPORT,
        "The manifest claims a release review, and the pack lacks what one needs.",
        "Run the review again: `pytest suites --release-review` with a signing key.",
    )
    SETTINGS_DIFFER = (
        "settings_differ",
        ExitCode.REPORT,
        "A setting of the run is not the one that the manifest or the reports show.",
        _MAKER,
    )
    ENVIRONMENT_DIFFERS = (
        "environment_differs",
        ExitCode.REPORT,
        "`metadata/environment.json` is not the environment that the reports were measured in.",
        _MAKER,
    )
    PINS_DIFFER = (
        "pins_differ",
        ExitCode.REPORT,
        "`metadata/model_revisions.json` does not pin what was measured.",
        _MAKER,
    )
    WEIGHTS_NOT_DECLARED = (
        "weights_not_declared",
        ExitCode.REPORT,
        "The pack holds model weights that no scenario declares, or lacks those that one does.",
        "Build the pack again without weights; no pack needs them.",
    )
    README_DIFFERS = (
        "readme_differs",
        ExitCode.REPORT,
        "`README.md` is not the one that the manifest and the verdict give.",
        "Do not believe the README. Ask the maker for the pack as it was built.",
    )
    ATTESTATION_DIFFERS = (
        "attestation_differs",
        ExitCode.REPORT,
        "The attestation says something else than the pack.",
        "Delete the attestation and let the signer attest the pack again.",
    )
    OTHER_VERSION = (
        "other_version",
        ExitCode.REPORT,
        "Another version of InvarLock made the pack, which may explain the other problems.",
        "Verify the pack with the version that its manifest names in `invarlock_version`.",
    )
    NOT_PACKED = (
        "not_packed",
        ExitCode.REPORT,
        "A pack is not built, because something that goes into it does not verify; the other problems say what.",
        "Run the case again (`pytest suites --resume` makes anew what does not verify), or leave its report out.",
    )
    CONTAINER_REQUIRED = (
        "container_required",
        ExitCode.REPORT,
        "`--report-assurance strict` needs clean cases that ran in a container with an image digest.",
        "Run the suite in a container, or verify with `--report-assurance report`.",
    )
    CLEAN_REPORT_REQUIRED = (
        "clean_report_required",
        ExitCode.REPORT,
        "`--report-assurance strict` needs a report of a clean edit, and the pack has none.",
        "Run the suite with a clean scenario, or verify with `--report-assurance report`.",
    )
    PASS_REQUIRED = (
        "pass_required",
        ExitCode.REPORT,
        "`--require-pass` was given, and the verdict is not PASS.",
        "`results/final_verdict.txt` says which requirement failed.",
    )
