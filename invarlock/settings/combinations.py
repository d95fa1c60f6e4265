"""Settings that exclude each other, or that ask for others."""

from __future__ import annotations

from collections.abc import Iterator

from invarlock.settings.values import Settings

# Two settings of which at most one may be given, as the user writes them.
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
    ("release_review", "--release-review", "unsigned", "--unsigned"),
    ("release_review", "--release-review", "no_pack", "--no-pack"),
)

# What a release review takes where nothing else is given.
RELEASE_REVIEW_DEFAULTS = {"profile": "ci", "report_assurance": "strict", "defer_rendering": True}


def combination_problems(settings: Settings) -> Iterator[str]:
    """Yield each combination that cannot work, and what to do about it."""
    for one, one_shown, other, other_shown in EXCLUDING:
        # what a release review takes by itself excludes nothing
        if settings.value(one) and settings.value(other) and settings.given(one) and settings.given(other):
            yield f"{one_shown} and {other_shown} exclude each other; drop one"
    if settings.calibration_runs == 1:
        yield "DRIFT_CALIBRATION_RUNS: 1 is too few, one is learned from and one held out; take 0, or 2 or more"
    mode = settings.suite_mode
    given = settings.calibration_preset_dir or settings.calibration_preset_file
    if mode == "calibrate-only" and given:
        yield "--suite-mode calibrate-only makes presets, and PACK_CALIBRATION_PRESET_DIR|FILE give them; drop one"
    if mode != "full" and settings.calibration_runs == 0 and not given:
        yield f"--suite-mode {mode} and DRIFT_CALIBRATION_RUNS=0 exclude each other; drop one"
    if settings.release_review:
        if settings.given("profile") and settings.profile == "dev":
            yield "--release-review needs --profile ci or release, not dev; drop --profile, it takes ci then"
        if settings.given("report_assurance") and settings.report_assurance != "strict":
            yield "--release-review needs --report-assurance strict; drop --report-assurance, it is strict then"
        if not settings.signing_key and not settings.unsigned:
            yield (
                "--release-review needs --signing-key KEY.pem, a key made for the run and not kept says nothing of who "
                "released it; make one: python -m invarlock.packer keygen NAME"
            )
        if settings.shard is not None:
            yield (
                "--release-review asks for the verdict of a whole run, which a shard has not; run the shards with "
                "--profile ci --report-assurance strict, and merge them with --signing-key KEY.pem --require-pass"
            )
        if mode == "calibrate-only":
            yield "--release-review and --suite-mode calibrate-only exclude each other; drop one"
