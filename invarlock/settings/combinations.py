"""Settings that cannot be combined, or that require others."""

from __future__ import annotations

from collections.abc import Iterator

from invarlock.settings.values import Settings

# Pairs of settings that cannot be combined, as the user writes them.
EXCLUDING = (
    ("unsigned", "--unsigned", "signing_key", "--signing-key"),
    ("no_pack", "--no-pack", "pack_dir", "--pack-dir"),
    ("skip_html", "PACK_SKIP_HTML=1", "defer_rendering", "--defer-rendering"),
    (
        "calibration_preset_dir",
        "PACK_CALIBRATION_PRESET_DIR",
        "calibration_preset_file",
        "PACK_CALIBRATION_PRESET_FILE",
    ),
    ("fleet", "--fleet", "shard", "--shard"),
    ("fleet", "--fleet", "keep_models", "--keep-models"),
    ("release_review", "--release-review", "unsigned", "--unsigned"),
    ("release_review", "--release-review", "no_pack", "--no-pack"),
)

# The defaults of a release review.
RELEASE_REVIEW_DEFAULTS = {"profile": "ci", "report_assurance": "strict", "defer_rendering": True}


def combination_problems(settings: Settings) -> Iterator[str]:
    """Yield each invalid combination with its remedy."""
    for one, one_shown, other, other_shown in EXCLUDING:
        # only given values can conflict, not the defaults of a release review
        if settings.value(one) and settings.value(other) and settings.given(one) and settings.given(other):
            yield f"{one_shown} and {other_shown} cannot be combined; drop one"
    if settings.calibration_runs == 1:
        yield "DRIFT_CALIBRATION_RUNS: 1 is too few, since one run is fitted and one is held out; use 0, or 2 or more"
    mode = settings.suite_mode
    given = settings.calibration_preset_dir or settings.calibration_preset_file
    if mode == "calibrate-only" and given:
        yield "--suite-mode calibrate-only makes presets, but PACK_CALIBRATION_PRESET_DIR|FILE gives them; drop one"
    if mode != "full" and settings.calibration_runs == 0 and not given:
        yield f"--suite-mode {mode} and DRIFT_CALIBRATION_RUNS=0 cannot be combined; drop one"
    if settings.fleet and mode == "calibrate-only":
        yield "--fleet and --suite-mode calibrate-only cannot be combined; a fleet makes presets with its first cases"
    if settings.fleet and settings.release_review:
        yield "--fleet and --release-review cannot be combined: a review needs containers, which a fleet does not start"
    if settings.fleet and settings.given("execution_mode") and settings.execution_mode == "container":
        yield (
            "--fleet and --execution-mode container cannot be combined: nodes start no containers; start the cluster "
            "in the runtime image, and run with --execution-mode host"
        )
    if settings.release_review:
        if settings.given("profile") and settings.profile == "dev":
            yield "--release-review needs --profile ci or release, not dev; drop --profile to use ci"
        if settings.given("report_assurance") and settings.report_assurance != "strict":
            yield "--release-review needs --report-assurance strict; drop --report-assurance to use it"
        if not settings.signing_key and not settings.unsigned:
            yield (
                "--release-review needs --signing-key KEY.pem, since a temporary key does not identify who "
                "released it; make a key: invarlock keygen NAME"
            )
        if settings.shard is not None:
            yield (
                "--release-review needs the verdict of a whole run, which a shard does not have; run the shards with "
                "--profile ci --report-assurance strict, and merge them with --signing-key KEY.pem --require-pass"
            )
        if mode == "calibrate-only":
            yield "--release-review and --suite-mode calibrate-only cannot be combined; drop one"
