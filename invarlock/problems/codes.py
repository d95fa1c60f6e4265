"""The codes of problems, with the exit code, the meaning and the remedy of each.

Codes are stable: new ones may be added, but none changes its meaning. ``docs/problems.md`` is generated from here.
The module is long because it is one table.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Self


class ExitCode(IntEnum):
    """The exit codes of commands; the checks of a pack run in this order from ``MISSING`` to ``REPORT``."""

    def __new__(cls, number: int, meaning: str) -> Self:
        """Return a member whose value is the number."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    meaning: str

    OK = 0, "success"
    GATE = 1, "evaluate: a gate failed, so 0 means that every gate passed"
    USAGE = 2, "invalid usage, unusable input, or output that cannot be written"
    MISSING = 3, "a pack or a file is missing"
    MANIFEST = 4, "the manifest is malformed"
    SIGNATURE = 5, "the signature is missing or invalid, or the signer is not trusted"
    INTEGRITY = 6, "the files of a pack do not match their checksums"
    REPORT = 7, "a report, a result or a claim does not follow from the raw measurements"


_AGAIN = (
    "Get the complete pack again from its maker. If the problem remains, report it: the sealed pack itself is wrong."
)
_MAKER = (
    "Do not rely on the pack. Ask its maker for a pack built by `invarlock build` or `merge` "
    "and not changed afterwards."
)
_OWN_FILE = "Correct the file at the place given in the message, and run the command again."


class Code(StrEnum):
    """The codes of problems, by subject."""

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

    GATE_FAILED = (
        "gate_failed",
        ExitCode.GATE,
        "A gate of an evaluation failed: the measured value is beyond its limit.",
        "Read the report's page. Use an edit that changes the model less, or declare that a change is intended with "
        "`--intent change`.",
    )
    USAGE_INVALID = (
        "usage_invalid",
        ExitCode.USAGE,
        "An option, a variable or a combination of them is invalid.",
        "Correct the option or variable in the message; see `--help` and `docs/settings.md`.",
    )
    OUTPUT_UNWRITABLE = (
        "output_unwritable",
        ExitCode.USAGE,
        "The result of a command cannot be written.",
        "Check free disk space, permissions and the output pipe.",
    )
    OUTPUT_EXISTS = (
        "output_exists",
        ExitCode.USAGE,
        "The target of a command already exists, and nothing is overwritten.",
        "Give another path, or delete the old file or folder first.",
    )
    INPUT_UNREADABLE = (
        "input_unreadable",
        ExitCode.USAGE,
        "A given file or folder cannot be read, or is not of the kind that the command reads.",
        "Check the path and its permissions; the message and `--help` say what the command reads.",
    )
    EXTRA_NOT_INSTALLED = (
        "extra_not_installed",
        ExitCode.USAGE,
        "A package that this command needs is not installed.",
        "Install it with the command in the message.",
    )
    OPTIONS_CONFLICT = (
        "options_conflict",
        ExitCode.USAGE,
        "Two options, or an option and a variable, cannot be combined, or one needs another.",
        "Add or drop the option that the message names.",
    )
    SETTING_INVALID = (
        "setting_invalid",
        ExitCode.USAGE,
        "A setting has a value that is not allowed, or does not exist.",
        "Correct it; `docs/settings.md` lists all settings with their values.",
    )
    CONFIG_MALFORMED = (
        "config_malformed",
        ExitCode.USAGE,
        "A configuration file is malformed, or has an unknown key.",
        "Correct the file at the place given in the message; `docs/settings.md` has an example.",
    )
    INCLUDE_REFUSED = (
        "include_refused",
        ExitCode.USAGE,
        "A file named by `!include` does not exist, lies outside of the configuration's folder, or includes itself.",
        "Correct the name, or move the file into the folder of the configuration.",
    )
    DOCUMENT_MALFORMED = (
        "document_malformed",
        ExitCode.USAGE,
        "A given JSON, YAML or TOML file is malformed or does not match its schema.",
        _OWN_FILE,
    )
    MODEL_SIGNATURE_MISSING = (
        "model_signature_missing",
        ExitCode.USAGE,
        "A checkpoint must have an OpenSSF model signature, and has none.",
        "Get the `model.sig` of the model, or leave `--model-signature` out.",
    )
    MODEL_SIGNATURE_DOES_NOT_HOLD = (
        "model_signature_does_not_hold",
        ExitCode.USAGE,
        "The model signature of a checkpoint was made by another signer or for other files, or does not cover a file.",
        "Do not use the checkpoint; get it again, or ask its signer.",
    )
    CHECKPOINT_UNUSABLE = (
        "checkpoint_unusable",
        ExitCode.USAGE,
        "A checkpoint is incomplete, malformed, in an unsupported format, or not the pinned one.",
        "Download or save the checkpoint again, or use another one.",
    )
    SUITE_MALFORMED = (
        "suite_malformed",
        ExitCode.USAGE,
        "`models.toml`, `scenarios.json` or a file of pins contradicts itself.",
        "Correct the entry in the message.",
    )
    EDIT_SPEC_INVALID = (
        "edit_spec_invalid",
        ExitCode.USAGE,
        "An edit or a deployable is unknown, or its parameters are invalid.",
        "Write it as the message says; `docs/own-suites.md` lists all edits with their parameters.",
    )
    TUNED_PARAMETERS_UNUSABLE = (
        "tuned_parameters_unusable",
        ExitCode.USAGE,
        "The tuned parameters for an edit of this model are missing, or their recorded evidence shows a failure.",
        "Tune the edit: `invarlock tune MODEL`, or give the parameters in the scenario.",
    )
    POLICY_UNKNOWN = (
        "policy_unknown",
        ExitCode.USAGE,
        "A tier, a profile, or the name of a limit is unknown.",
        "Use one of the names in the message.",
    )
    PRESET_UNUSABLE = (
        "preset_unusable",
        ExitCode.USAGE,
        "A preset is malformed, or belongs to another model or setup.",
        "Calibrate the model again, or omit the preset.",
    )
    NULL_RUNS_UNUSABLE = (
        "null_runs_unusable",
        ExitCode.USAGE,
        "No limits can be learned from the null runs: some are missing, failed, or were measured differently.",
        "Run the calibration again: `pytest suites --suite-mode calibrate-only`.",
    )
    TASK_RESULTS_DIFFER = (
        "task_results_differ",
        ExitCode.USAGE,
        "The task results of baseline and subject cannot be paired.",
        "Run the same version of the task on both, with the same samples and metric.",
    )
    HUB_UNAVAILABLE = (
        "hub_unavailable",
        ExitCode.USAGE,
        "A model or a data set cannot be downloaded, or is not the pinned one.",
        "Check the network, the token and the pin, or run offline with a complete cache.",
    )
    PIN_UNUSABLE = (
        "pin_unusable",
        ExitCode.USAGE,
        "A model or a data set has no pinned revision, or its files differ from the pin.",
        "Download it with `--net 1`, or correct the pin.",
    )
    TEXT_UNUSABLE = (
        "text_unusable",
        ExitCode.USAGE,
        "A text is missing, cannot be read, or does not have the expected encoding, format or content.",
        "Give another text, or restore the file; the message says what is wrong with it.",
    )
    TOKENIZER_UNUSABLE = (
        "tokenizer_unusable",
        ExitCode.USAGE,
        "The tokenizer of a checkpoint cannot be loaded or used.",
        "Save the tokenizer again with the checkpoint, or copy it from the baseline.",
    )
    MODEL_NOT_LOADABLE = (
        "model_not_loadable",
        ExitCode.USAGE,
        "A model cannot be loaded, or fails in its first forward pass.",
        "Load the checkpoint with transformers itself to see why, and save it again.",
    )
    BASELINE_IMPLAUSIBLE = (
        "baseline_implausible",
        ExitCode.USAGE,
        "The baseline does not predict text, or differs from the report given for it.",
        "Check that it is the trained model with its own tokenizer, or measure it again.",
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
        "A measurement is not possible on this text or model.",
        "Use a longer text, shorter windows, or a model of a supported family.",
    )
    MEMORY_EXHAUSTED = (
        "memory_exhausted",
        ExitCode.USAGE,
        "A model, or one window of text, does not fit in the memory of its devices.",
        "Use a smaller batch or shorter windows, free device memory, or use a larger device.",
    )
    SELECTION_INVALID = (
        "selection_invalid",
        ExitCode.USAGE,
        "The selected cases do not exist, belong to several suites, or are only a part where all are required.",
        "Correct the selection; `pytest suites --collect-only` lists all cases.",
    )
    SUBJECTS_UNUSABLE = (
        "subjects_unusable",
        ExitCode.USAGE,
        "The checkpoints given with `--baseline` and `--subject` cannot be evaluated.",
        "Give complete checkpoint folders; the message has one line for each problem.",
    )
    RUN_CANNOT_BEGIN = (
        "run_cannot_begin",
        ExitCode.USAGE,
        "A check before the first case found that the run would fail later.",
        "The message has one line for each problem, with its remedy.",
    )
    RUN_DIFFERS = (
        "run_differs",
        ExitCode.USAGE,
        "The run directory does not belong to the run that is to be resumed.",
        "Use the same selection, settings and pins, or start a new run in another folder.",
    )
    RUN_IN_USE = (
        "run_in_use",
        ExitCode.USAGE,
        "Another session, or a process of an earlier one, uses the run directory.",
        "Wait until it ends, or stop it.",
    )
    RUN_DIRECTORY_UNUSABLE = (
        "run_directory_unusable",
        ExitCode.USAGE,
        "The given run directory lacks what the command needs.",
        "Give the `--output-dir` of a run as described in the message.",
    )
    DEVICE_UNAVAILABLE = (
        "device_unavailable",
        ExitCode.USAGE,
        "There is no usable GPU, not as many as requested, or none with enough free memory.",
        "Check `nvidia-smi` and the settings in the message, or use the suite for CPUs: `-m smoke`.",
    )
    CONTAINER_UNAVAILABLE = (
        "container_unavailable",
        ExitCode.USAGE,
        "The container engine or the runtime image is missing, does not answer, or does not match.",
        "Follow the message, or run on the host; see `docs/container.md`.",
    )
    KEY_MALFORMED = (
        "key_malformed",
        ExitCode.USAGE,
        "A file is not a PEM file with an Ed25519 key, or has a private key instead of a public one or vice versa.",
        "Make a key pair with `invarlock keygen NAME.pem`; NAME.pub.pem is the public one.",
    )
    KEY_ENCRYPTED = (
        "key_encrypted",
        ExitCode.USAGE,
        "The private key is encrypted, and no passphrase was given.",
        "Name the environment variable that contains the passphrase: `--passphrase-env VAR`.",
    )
    KEY_NOT_ENCRYPTED = (
        "key_not_encrypted",
        ExitCode.USAGE,
        "A passphrase was given for a private key that is not encrypted.",
        "Drop `--passphrase-env`.",
    )
    PASSPHRASE_UNUSABLE = (
        "passphrase_unusable",
        ExitCode.USAGE,
        "The environment variable with the passphrase is unset or empty, or its value is too long.",
        "Set the variable named in `--passphrase-env` to the passphrase.",
    )
    PASSPHRASE_WRONG = (
        "passphrase_wrong",
        ExitCode.USAGE,
        "The passphrase does not decrypt the private key, or the file is damaged.",
        "Check the passphrase, or restore the file from a backup.",
    )
    WRITABLE_BY_EVERYBODY = (
        "writable_by_everybody",
        ExitCode.USAGE,
        "Every user of the machine can write to a key, a trust store, or a folder that contains it.",
        "Remove the permission: `chmod o-w PATH`.",
    )
    FINGERPRINT_MALFORMED = (
        "fingerprint_malformed",
        ExitCode.USAGE,
        "A fingerprint is not `sha256:` and 64 hexadecimal digits.",
        "Copy the fingerprint that `keygen` printed or the maker published.",
    )
    TIME_MALFORMED = (
        "time_malformed",
        ExitCode.USAGE,
        "A time is not in ISO 8601 format.",
        "Write it like `2026-01-31T12:00:00Z`.",
    )
    TRUST_STORE_MALFORMED = (
        "trust_store_malformed",
        ExitCode.USAGE,
        "A trust store is not strict JSON, or has an unknown field or an invalid entry.",
        "Correct the file; `trust add` and `trust revoke` keep it well-formed.",
    )
    TRUST_STORE_UNUSABLE = (
        "trust_store_unusable",
        ExitCode.USAGE,
        "The trust store cannot be found, read, locked or written.",
        "Give another one with `--trust-store FILE`, or correct the permissions.",
    )
    SIGNER_ALREADY_LISTED = (
        "signer_already_listed",
        ExitCode.USAGE,
        "The trust store already lists the signer as trusted or revoked.",
        "Edit the store to change the dates of a signer. A revocation is permanent.",
    )
    ALREADY_SIGNED = (
        "already_signed",
        ExitCode.USAGE,
        "The pack already has a signature or an attestation, which is never replaced.",
        "Build the pack again to sign it with another key.",
    )
    VERDICT_NOT_CLAIMED = (
        "verdict_not_claimed",
        ExitCode.USAGE,
        "The pack claims no verdict, so there is nothing to attest or compare.",
        "Build the pack from a complete run.",
    )
    BUILD_INPUT_UNUSABLE = (
        "build_input_unusable",
        ExitCode.USAGE,
        "A file given to `build` cannot be sealed: it is malformed, too large, given twice, or its run is unknown.",
        "Correct the option or file in the message; `build --help` lists what can be sealed.",
    )
    SHARDS_DIFFER = (
        "shards_differ",
        ExitCode.USAGE,
        "The given shards belong to different runs or divisions, one is given twice, or their machines differ.",
        "Give the shards of one run, each once, all made on identical machines.",
    )
    TIMESTAMP_NOT_OBTAINED = (
        "timestamp_not_obtained",
        ExitCode.USAGE,
        "The time-stamping authority does not answer, or does not return a time stamp of the signature.",
        "Check the URL and the network, or try again later: `invarlock sign PACK --timestamp-url URL`.",
    )
    NODE_DIFFERS = (
        "node_differs",
        ExitCode.USAGE,
        "A node of a fleet has other versions or other source code, or measured something differently.",
        "Install the same versions on all nodes, and use identical nodes or `--determinism strict`; continue with "
        "`--resume`.",
    )
    SERVER_UNREACHABLE = (
        "server_unreachable",
        ExitCode.USAGE,
        "The server of a subject does not answer, or refuses the request.",
        "Check that it is running, and check the URL, the model's name and the key.",
    )
    SERVER_ANSWER_UNUSABLE = (
        "server_answer_unusable",
        ExitCode.USAGE,
        "A server did not return the log-probabilities of the prompt's tokens.",
        "Use a server that returns them, such as vLLM; `docs/served.md` lists the requirements.",
    )
    FILE_MISSING = (
        "file_missing",
        ExitCode.MISSING,
        "A required file does not exist.",
        "Check the path; the message says how to create the file.",
    )
    KEY_MISSING = (
        "key_missing",
        ExitCode.MISSING,
        "The file of a private key does not exist.",
        "Check the path, or make a key pair with `invarlock keygen NAME.pem`.",
    )
    SHARD_INCOMPLETE = (
        "shard_incomplete",
        ExitCode.MISSING,
        "A folder is not a shard, or a shard of the run is missing or unfinished.",
        "Give the run directories of all shards; continue an unfinished one with `--resume`.",
    )
    PACK_MISSING = (
        "pack_missing",
        ExitCode.MISSING,
        "The given path is not an evidence pack.",
        "Give the folder with `manifest.json`; unpack an archive first.",
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
        "`manifest.json` is not strict JSON or does not match its schema.",
        _AGAIN,
    )
    FORMAT_UNKNOWN = (
        "format_unknown",
        ExitCode.MANIFEST,
        "The pack has a format of a later version of InvarLock.",
        "Install the version that the message names, or a later one, and verify again.",
    )
    SIGNATURE_MISSING = (
        "signature_missing",
        ExitCode.SIGNATURE,
        "The pack is not signed, so its origin is unknown.",
        "Ask the maker to sign it (`invarlock sign PACK --signing-key KEY.pem`). "
        "`--allow-unsigned` runs all other checks.",
    )
    SIGNATURE_MALFORMED = (
        "signature_malformed",
        ExitCode.SIGNATURE,
        "`manifest.signature.json` cannot be read, does not match its schema, or has a weak key.",
        _AGAIN,
    )
    SIGNATURE_DOES_NOT_HOLD = (
        "signature_does_not_hold",
        ExitCode.SIGNATURE,
        "The signature is not valid for the bytes of `manifest.json`: one of the two was changed.",
        _AGAIN,
    )
    MANIFEST_LINE_ENDS_CHANGED = (
        "manifest_line_ends_changed",
        ExitCode.SIGNATURE,
        "The line endings of `manifest.json` were changed, so the signature is not valid.",
        "Get the pack as an archive, or clone it with `git -c core.autocrlf=false`.",
    )
    SIGNER_DIFFERS = (
        "signer_differs",
        ExitCode.SIGNATURE,
        "The manifest names another signer than the key that signed it.",
        "Do not rely on the pack; ask the maker which key is correct.",
    )
    SIGNER_NOT_EXPECTED = (
        "signer_not_expected",
        ExitCode.SIGNATURE,
        "The pack was not signed by the key in `--expected-fingerprint`.",
        "Compare the fingerprint with the one the maker published.",
    )
    SIGNER_UNKNOWN = (
        "signer_unknown",
        ExitCode.SIGNATURE,
        "The signer is not in the trust store.",
        "If you trust the signer, add it: `invarlock trust add SIGNER`.",
    )
    SIGNER_REVOKED = (
        "signer_revoked",
        ExitCode.SIGNATURE,
        "The trust store lists the signer as revoked.",
        "Do not rely on the pack; ask the maker for a pack signed by a valid key.",
    )
    SIGNER_OUT_OF_DATE = (
        "signer_out_of_date",
        ExitCode.SIGNATURE,
        "The signer is not trusted now, or was not trusted when the pack was made or time-stamped.",
        "Check `not_before` and `not_after` in the trust store; `--at TIME` checks at another time.",
    )
    ATTESTATION_MALFORMED = (
        "attestation_malformed",
        ExitCode.SIGNATURE,
        "An attestation of the pack cannot be read or does not match its schema.",
        "Delete the attestation and let the signer attest the pack again.",
    )
    ATTESTATION_DOES_NOT_HOLD = (
        "attestation_does_not_hold",
        ExitCode.SIGNATURE,
        "The attestation is not signed, or not by the signer of the pack.",
        "Delete the attestation and let the signer attest the pack again.",
    )
    TIMESTAMP_MISSING = (
        "timestamp_missing",
        ExitCode.SIGNATURE,
        "The receiver requires a time stamp, and the pack has none.",
        "Ask the maker to add one: `invarlock sign PACK --timestamp-url URL`; or do not require it.",
    )
    TIMESTAMP_MALFORMED = (
        "timestamp_malformed",
        ExitCode.SIGNATURE,
        "`manifest.signature.tsr` is not a granted RFC 3161 time stamp.",
        "Delete it and stamp the pack again: `invarlock sign PACK --timestamp-url URL`.",
    )
    TIMESTAMP_OF_OTHER_SIGNATURE = (
        "timestamp_of_other_signature",
        ExitCode.SIGNATURE,
        "The time stamp does not belong to the signature of the pack.",
        "Do not rely on the time; ask the maker to stamp the pack again.",
    )
    TIMESTAMP_OF_OTHER_AUTHORITY = (
        "timestamp_of_other_authority",
        ExitCode.SIGNATURE,
        "The time stamp is not by the authority whose certificate the receiver pinned.",
        "Compare the certificate in `--timestamp-certificate` with that of the maker's authority.",
    )
    RECEIPT_MALFORMED = (
        "receipt_malformed",
        ExitCode.SIGNATURE,
        "A receipt cannot be read or does not match its schema.",
        "Get the receipt again from the receiver who wrote it, or verify the pack yourself.",
    )
    RECEIPT_DOES_NOT_HOLD = (
        "receipt_does_not_hold",
        ExitCode.SIGNATURE,
        "The signature of a receipt is not valid, or is not by the expected receiver.",
        "Do not rely on the receipt; verify the pack yourself.",
    )
    CHECKSUMS_MALFORMED = (
        "checksums_malformed",
        ExitCode.INTEGRITY,
        "`checksums.sha256` is not a list of digests and unique safe paths.",
        _AGAIN,
    )
    CHECKSUMS_DIGEST_DIFFERS = (
        "checksums_digest_differs",
        ExitCode.INTEGRITY,
        "`checksums.sha256` does not match its digest in the manifest.",
        _AGAIN,
    )
    CHECKSUM_DIFFERS = (
        "checksum_differs",
        ExitCode.INTEGRITY,
        "A file does not match its checksum.",
        _AGAIN,
    )
    LINE_ENDS_CHANGED = (
        "line_ends_changed",
        ExitCode.INTEGRITY,
        "The line endings of a file were changed, perhaps by git.",
        "Get the pack as an archive, or clone it with `git -c core.autocrlf=false`.",
    )
    SEALED_FILE_MISSING = (
        "sealed_file_missing",
        ExitCode.INTEGRITY,
        "A file listed in the checksums is missing from the pack.",
        _AGAIN,
    )
    FILE_NOT_SEALED = (
        "file_not_sealed",
        ExitCode.INTEGRITY,
        "The pack has a file without a checksum. Without `--strict` this is a warning, except for pages.",
        "Delete the file, or get the pack again from its maker.",
    )
    PATH_UNSAFE = (
        "path_unsafe",
        ExitCode.INTEGRITY,
        "A path could lead out of the pack, or is misleading.",
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
        "An entry of a pack or a run directory is a link, a device or a pipe, or a folder instead of a file.",
        "Replace it with a copy of the actual file, or get the pack again.",
    )
    FILE_UNREADABLE = (
        "file_unreadable",
        ExitCode.INTEGRITY,
        "A file of a pack cannot be read.",
        "Check the file's permissions and the disk.",
    )
    FILE_TOO_LARGE = (
        "file_too_large",
        ExitCode.INTEGRITY,
        "A file is larger than InvarLock ever writes it.",
        _MAKER,
    )
    FILE_CHANGED = (
        "file_changed",
        ExitCode.INTEGRITY,
        "A file changed while the pack was verified.",
        "Wait until no program writes to the pack, or verify a copy.",
    )
    PACK_TOO_LARGE = (
        "pack_too_large",
        ExitCode.INTEGRITY,
        "A pack has more files, folders or bytes than the limit.",
        _MAKER,
    )
    ATTRIBUTES_DIFFER = (
        "attributes_differ",
        ExitCode.INTEGRITY,
        "`.gitattributes` has other content than `* -text`.",
        "Delete `.gitattributes`, or get the pack again.",
    )
    REFERENCE_DANGLES = (
        "reference_dangles",
        ExitCode.INTEGRITY,
        "The manifest refers to a file or a digest that is not in the pack.",
        _MAKER,
    )
    REFERENCE_DIFFERS = (
        "reference_differs",
        ExitCode.INTEGRITY,
        "Manifest and checksums have different digests for a file.",
        _MAKER,
    )
    EDIT_METADATA_MISSING = (
        "edit_metadata_missing",
        ExitCode.INTEGRITY,
        "A report has no `edit_metadata.json` in its folder.",
        _MAKER,
    )
    EDIT_METADATA_MALFORMED = (
        "edit_metadata_malformed",
        ExitCode.INTEGRITY,
        "An `edit_metadata.json` is not strict JSON or does not match its schema.",
        _MAKER,
    )
    EDIT_METADATA_DIFFERS = (
        "edit_metadata_differs",
        ExitCode.INTEGRITY,
        "An `edit_metadata.json` does not follow from the report and its scenario.",
        _MAKER,
    )
    ARCHIVE_DAMAGED = (
        "archive_damaged",
        ExitCode.INTEGRITY,
        "The archive of a piece was changed on its way between controller and node.",
        "Continue the run with `--resume`; check the network and the memory of the node.",
    )
    SHARD_CONTRADICTS_ITSELF = (
        "shard_contradicts_itself",
        ExitCode.INTEGRITY,
        "The cases of a shard do not match its part of the run.",
        "Run the shard again in a new run directory.",
    )
    REPORT_MALFORMED = (
        "report_malformed",
        ExitCode.REPORT,
        "A report is not strict JSON, does not match its schema, or belongs to no planned case.",
        _MAKER,
    )
    RAW_MEASUREMENTS_CONTRADICT = (
        "raw_measurements_contradict",
        ExitCode.REPORT,
        "The raw measurements of a report contradict each other.",
        _MAKER,
    )
    EDIT_CONTRADICTS_ITSELF = (
        "edit_contradicts_itself",
        ExitCode.REPORT,
        "The name, label or parameters of an edit do not match its spec.",
        _MAKER,
    )
    CONTRACT_NOT_KEPT = (
        "contract_not_kept",
        ExitCode.REPORT,
        "A measurement was not made under the measurement contract recorded with it.",
        "Measure baseline and subject again with one version of InvarLock.",
    )
    NUMBER_DOES_NOT_FOLLOW = (
        "number_does_not_follow",
        ExitCode.REPORT,
        "A derived value does not follow from the raw measurements.",
        _MAKER,
    )
    BASELINE_MISSING = (
        "baseline_missing",
        ExitCode.REPORT,
        "The pack lacks the report of the baseline that a report was measured against.",
        "Build the pack again with `--baseline FILE`.",
    )
    BASELINE_CONTRADICTS_ITSELF = (
        "baseline_contradicts_itself",
        ExitCode.REPORT,
        "A value of a baseline's report does not follow from its measurements.",
        _MAKER,
    )
    BASELINE_DIFFERS = (
        "baseline_differs",
        ExitCode.REPORT,
        "The baseline measurements in a report differ from the baseline's own report.",
        "Measure the subject against this baseline again.",
    )
    MODEL_DIFFERS = (
        "model_differs",
        ExitCode.REPORT,
        "A report or a preset is in the folder of another model.",
        _MAKER,
    )
    PRESET_DOES_NOT_FOLLOW = (
        "preset_does_not_follow",
        ExitCode.REPORT,
        "A preset does not follow from its null runs.",
        "Calibrate the model again: `pytest suites --suite-mode calibrate-only`.",
    )
    PRESET_DIFFERS = (
        "preset_differs",
        ExitCode.REPORT,
        "A report was not judged with its model's preset in the pack.",
        "Judge the report with that preset, or build the pack with the preset that was used (`--presets FOLDER`).",
    )
    TUNED_PARAMETERS_DIFFER = (
        "tuned_parameters_differ",
        ExitCode.REPORT,
        "A clean edit was not made with the tuned parameters of its model.",
        "Run the case again with the tuned parameters in the pack.",
    )
    RUNTIME_MANIFEST_DIFFERS = (
        "runtime_manifest_differs",
        ExitCode.REPORT,
        "A `runtime.manifest.json` does not match the report in the same folder.",
        _MAKER,
    )
    TIMING_DIFFERS = (
        "timing_differs",
        ExitCode.REPORT,
        "An `evaluate_timing.json` does not match the telemetry of the report in the same folder.",
        _MAKER,
    )
    PAGE_DIFFERS = (
        "page_differs",
        ExitCode.REPORT,
        "An `evaluation.html` is not the page rendered from the report in the same folder.",
        "Delete the page, or render it again from the report.",
    )
    COMPANION_DIFFERS = (
        "companion_differs",
        ExitCode.REPORT,
        "A probe or a deployable document does not belong to its report, or does not follow from its measurements.",
        _MAKER,
    )
    REPEATS_DIFFER = (
        "repeats_differ",
        ExitCode.REPORT,
        "A `determinism_repeats.json` does not match its report, or contradicts itself.",
        _MAKER,
    )
    FILE_MALFORMED = (
        "file_malformed",
        ExitCode.REPORT,
        "A file of a pack is not strict JSON or does not match its schema.",
        _MAKER,
    )
    FILE_ABSENT = (
        "file_absent",
        ExitCode.REPORT,
        "A file that is derived from the reports, or that a report requires, is missing from the pack.",
        _MAKER,
    )
    FILE_DOES_NOT_FOLLOW = (
        "file_does_not_follow",
        ExitCode.REPORT,
        "A file in the folders of reports, results or presets belongs to none of them.",
        "Keep your own files elsewhere, or seal them with `build --material NAME=FILE`.",
    )
    FILE_NAME_MISLEADS = (
        "file_name_misleads",
        ExitCode.REPORT,
        "A file is named deceptively like a file that is checked.",
        "Rename the file.",
    )
    PLAN_MISSING = (
        "plan_missing",
        ExitCode.REPORT,
        "A pack with reports has no readable `metadata/scenarios.json`.",
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
        "A report or a baseline does not belong to the planned suite, revision or models.",
        _MAKER,
    )
    PYTEST_REPORT_CONTRADICTS_ITSELF = (
        "pytest_report_contradicts_itself",
        ExitCode.REPORT,
        "The summary of `metadata/pytest_report.json` does not match its tests.",
        _MAKER,
    )
    RESULT_DOES_NOT_FOLLOW = (
        "result_does_not_follow",
        ExitCode.REPORT,
        "A verdict or a summary does not follow from the reports.",
        _MAKER,
    )
    TOO_MANY_REPORTS = (
        "too_many_reports",
        ExitCode.REPORT,
        "A pack has more reports or null runs than the limit.",
        _MAKER,
    )
    MANIFEST_CLAIM_DOES_NOT_FOLLOW = (
        "manifest_claim_does_not_follow",
        ExitCode.REPORT,
        "A claim of the manifest does not follow from the files of the pack.",
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
        "The manifest claims a release review, but the pack does not meet its requirements.",
        "Run the review again: `pytest suites --release-review` with a signing key.",
    )
    SETTINGS_DIFFER = (
        "settings_differ",
        ExitCode.REPORT,
        "A setting of the run differs from the manifest or the reports.",
        _MAKER,
    )
    ENVIRONMENT_DIFFERS = (
        "environment_differs",
        ExitCode.REPORT,
        "`metadata/environment.json` differs from the environment in which the reports were measured.",
        _MAKER,
    )
    PINS_DIFFER = (
        "pins_differ",
        ExitCode.REPORT,
        "`metadata/model_revisions.json` does not pin the measured models.",
        _MAKER,
    )
    WEIGHTS_NOT_DECLARED = (
        "weights_not_declared",
        ExitCode.REPORT,
        "The pack has model weights that no scenario declares, or lacks declared ones.",
        "Build the pack again without weights; no pack needs them.",
    )
    README_DIFFERS = (
        "readme_differs",
        ExitCode.REPORT,
        "`README.md` does not match the manifest and the verdict.",
        "Do not rely on the README. Ask the maker for the pack as it was built.",
    )
    ATTESTATION_DIFFERS = (
        "attestation_differs",
        ExitCode.REPORT,
        "The attestation contradicts the pack.",
        "Delete the attestation and let the signer attest the pack again.",
    )
    ATTESTED_SUBJECT_DIFFERS = (
        "attested_subject_differs",
        ExitCode.REPORT,
        "An attestation is about another manifest or other checkpoints than those of the pack.",
        "Delete the attestation and let the signer attest the pack again.",
    )
    OTHER_VERSION = (
        "other_version",
        ExitCode.REPORT,
        "Another version of InvarLock made the pack, which may explain the other problems.",
        "Verify the pack with the version in `invarlock_version` of its manifest.",
    )
    NOT_PACKED = (
        "not_packed",
        ExitCode.REPORT,
        "The pack was not built because some of its content does not verify; see the other problems.",
        "Run the case again (`pytest suites --resume` repeats what does not verify), or omit its report.",
    )
    CONTAINER_REQUIRED = (
        "container_required",
        ExitCode.REPORT,
        "`--report-assurance strict` requires that all clean cases ran in a container with a known image digest.",
        "Run the suite in a container, or verify with `--report-assurance report`.",
    )
    CLEAN_REPORT_REQUIRED = (
        "clean_report_required",
        ExitCode.REPORT,
        "`--report-assurance strict` requires a report of a clean edit, but the pack has none.",
        "Run the suite with a clean scenario, or verify with `--report-assurance report`.",
    )
    PASS_REQUIRED = (
        "pass_required",
        ExitCode.REPORT,
        "`--require-pass` was given, but the verdict is not PASS.",
        "See `results/final_verdict.txt` of the pack, or the page of the report, for what failed.",
    )
    POLICY_UNMET = (
        "policy_unmet",
        ExitCode.REPORT,
        "The pack is valid but does not meet a requirement of the policy given with `--policy`.",
        "Ask the maker for a pack that meets it, or change the policy.",
    )
    RECEIPT_OF_OTHER_PACK = (
        "receipt_of_other_pack",
        ExitCode.REPORT,
        "A receipt is valid, but is about another pack.",
        "Get the receipt of this pack, or verify the pack yourself.",
    )
    RECEIPT_REFUSES = (
        "receipt_refuses",
        ExitCode.REPORT,
        "A receipt is valid, and it says that the verification did not succeed.",
        "Do not rely on the pack. The receipt names the problems that the receiver found.",
    )
