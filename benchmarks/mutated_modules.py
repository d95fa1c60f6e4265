"""The modules that make decisions, and the tests closest to each module, fastest first."""

from __future__ import annotations

PACKER, CHECKPOINTS = "tests/packer", "tests/invarlock/checkpoints"
REPORTS, HARNESS = "tests/invarlock/reports", "tests/invarlock/harness"
KEYS = (f"{PACKER}/test_key_files.py", f"{PACKER}/test_keys_and_trust.py", f"{PACKER}/test_signing.py")
SIGNATURE, RESULTS = f"{PACKER}/test_signature_step.py", f"{PACKER}/test_plan_and_results.py"
ATTESTATIONS = f"{PACKER}/test_attestations.py"
CLAIMED = f"{PACKER}/test_manifest_claims.py"
RESULT = (f"{PACKER}/test_verify_result.py", f"{PACKER}/test_expected_signers.py")
VERIFYING = (f"{PACKER}/test_verify.py", f"{PACKER}/test_attacks.py")
EVIDENCE = (
    f"{PACKER}/test_strong_evidence.py",
    f"{PACKER}/test_partial_packs.py",
    f"{PACKER}/test_partial_manifests.py",
)
GUARDS = (f"{REPORTS}/test_guards_judgement.py", f"{REPORTS}/test_activation_judgement.py")
VERDICT = ("tests/invarlock/verdict",)
EDITS = ("tests/invarlock/catalog/test_edit_specs.py", "tests/invarlock/edits", f"{CHECKPOINTS}/test_editing.py")

MODULES: dict[str, tuple[str, ...]] = {
    # what a pack is on disk
    "packer/format/checksums.py": (f"{PACKER}/test_checksums.py", f"{PACKER}/test_attacks.py"),
    "packer/format/contents.py": (f"{PACKER}/test_sealed_files.py", *VERIFYING),
    "packer/format/layout.py": VERIFYING,
    "packer/format/pack_folder.py": (
        f"{PACKER}/test_pack_folder.py",
        f"{PACKER}/test_sealed_files.py",
        f"{PACKER}/test_hostile_packs.py",
        f"{PACKER}/test_transport.py",
        *VERIFYING,
    ),
    "packer/format/references.py": VERIFYING,
    # trust
    "packer/trust/attestation.py": (SIGNATURE, f"{PACKER}/test_signing.py", *VERIFYING),
    "packer/trust/attested.py": (ATTESTATIONS, *VERIFYING),
    "packer/trust/bundles.py": (ATTESTATIONS,),
    "packer/trust/checkpoint_subjects.py": (ATTESTATIONS, f"{PACKER}/test_signing.py"),
    "packer/trust/predicates.py": (ATTESTATIONS, SIGNATURE, f"{PACKER}/test_signing.py"),
    "packer/trust/editing.py": (f"{PACKER}/test_file_access.py", f"{PACKER}/test_keys_and_trust.py"),
    "packer/trust/envelopes.py": (SIGNATURE, f"{PACKER}/test_receipts.py", f"{PACKER}/test_signing.py"),
    "packer/trust/file_access.py": (f"{PACKER}/test_file_access.py", *KEYS),
    "packer/trust/keys.py": KEYS,
    "packer/trust/pem.py": KEYS,
    "packer/trust/signature.py": (SIGNATURE, *KEYS, *VERIFYING),
    "packer/trust/signers.py": (SIGNATURE, f"{PACKER}/test_expected_signers.py", *KEYS, f"{PACKER}/test_verify.py"),
    "packer/trust/timestamps.py": (f"{PACKER}/test_timestamps.py",),
    # the verifier
    "packer/verify/authenticity.py": (SIGNATURE, f"{PACKER}/test_expected_signers.py", *KEYS, *VERIFYING),
    "packer/verify/control_files.py": VERIFYING,
    "packer/verify/integrity.py": (f"{PACKER}/test_sealed_files.py", *VERIFYING),
    "packer/verify/options.py": (
        f"{PACKER}/test_verify_result.py",
        f"{PACKER}/test_expected_signers.py",
        f"{PACKER}/test_verify.py",
    ),
    "packer/verify/result.py": (
        f"{PACKER}/test_verify_result.py",
        f"{PACKER}/test_expected_signers.py",
        *EVIDENCE,
        f"{PACKER}/test_verify.py",
    ),
    "packer/verify/verifying.py": (*VERIFYING, *EVIDENCE, f"{PACKER}/test_pages.py", f"{PACKER}/test_signing.py"),
    # claims
    "packer/verify/attestable.py": (ATTESTATIONS, f"{PACKER}/test_signing.py"),
    "packer/verify/baselines.py": (RESULTS, *VERIFYING),
    "packer/verify/catalogue.py": (f"{PACKER}/test_catalogue.py", *VERIFYING),
    "packer/verify/claims.py": (SIGNATURE, *EVIDENCE, *VERIFYING, f"{PACKER}/test_signing.py"),
    "packer/verify/edit_records.py": (f"{PACKER}/test_edit_records.py", f"{PACKER}/test_deployables.py", *VERIFYING),
    "packer/verify/evidence.py": (*EVIDENCE, *VERIFYING),
    "packer/verify/manifest_claims.py": (
        CLAIMED,
        f"{PACKER}/test_pages.py",
        *EVIDENCE,
        *VERIFYING,
        f"{PACKER}/test_build.py",
    ),
    "packer/verify/plan.py": (RESULTS, *VERIFYING, f"{PACKER}/test_partial_packs.py"),
    "packer/verify/policies.py": (f"{PACKER}/test_policies.py",),
    "packer/verify/presets.py": (
        f"{PACKER}/test_presets_in_packs.py",
        RESULTS,
        f"{PACKER}/test_attacks.py",
    ),
    "packer/verify/report.py": (CLAIMED, *VERIFYING, f"{PACKER}/test_pages.py", f"{PACKER}/test_probes.py"),
    "packer/verify/reports.py": (RESULTS, *VERIFYING, f"{PACKER}/test_build.py", f"{PACKER}/test_probes.py"),
    "packer/verify/results.py": (RESULTS, *VERIFYING, f"{PACKER}/test_build.py", f"{PACKER}/test_probes.py"),
    "packer/verify/shared_values.py": (RESULTS,),
    "packer/verify/workers.py": (f"{PACKER}/test_verify_workers.py",),
    "invarlock/reports/consistency.py": (
        f"{REPORTS}/test_consistency.py",
        f"{REPORTS}/test_verification.py",
        f"{PACKER}/test_attacks.py",
    ),
    "invarlock/reports/derivation.py": (f"{REPORTS}/test_derivation.py", f"{REPORTS}/test_verification.py"),
    "invarlock/reports/verification.py": (f"{REPORTS}/test_verification.py", f"{PACKER}/test_attacks.py"),
    # merging
    "packer/runs/merging.py": (f"{PACKER}/test_merging.py",),
    "packer/runs/shards.py": (f"{PACKER}/test_merging.py",),
    # statistics
    "invarlock/metrics/fidelity.py": (f"{REPORTS}/test_fidelity.py", "tests/invarlock/measuring/test_fidelity.py"),
    "invarlock/metrics/fidelity_raw.py": (f"{REPORTS}/test_fidelity.py", "tests/invarlock/measuring/test_fidelity.py"),
    "invarlock/metrics/metric.py": (f"{REPORTS}/test_primary_metric.py",),
    "invarlock/metrics/perplexity.py": (f"{REPORTS}/test_primary_metric.py", f"{REPORTS}/test_derivation.py"),
    "invarlock/metrics/tail.py": (
        f"{REPORTS}/test_primary_metric.py",
        f"{REPORTS}/test_gates.py",
        f"{REPORTS}/test_policy.py",
    ),
    "invarlock/statistics/histogram.py": (f"{REPORTS}/test_fidelity.py", "tests/invarlock/measuring/test_fidelity.py"),
    "invarlock/statistics/intervals.py": (f"{REPORTS}/test_statistics.py",),
    "invarlock/metrics/tasks.py": (f"{REPORTS}/test_tasks.py",),
    "invarlock/statistics/paired_scores.py": (f"{REPORTS}/test_tasks.py",),
    "invarlock/statistics/rounding.py": (f"{REPORTS}/test_statistics.py", f"{REPORTS}/test_guards_judgement.py"),
    # the judgement of guards
    "invarlock/guards/configuration.py": (f"{REPORTS}/test_configuration.py",),
    "invarlock/guards/guard.py": GUARDS,
    "invarlock/guards/invariants.py": (*GUARDS, f"{REPORTS}/test_structure.py", f"{REPORTS}/test_verification.py"),
    "invarlock/guards/rmt.py": GUARDS,
    "invarlock/guards/rmt_families.py": GUARDS,
    "invarlock/guards/spectral.py": GUARDS,
    "invarlock/guards/spectral_page.py": GUARDS,
    "invarlock/guards/spectral_raw.py": GUARDS,
    "invarlock/guards/structure.py": (f"{REPORTS}/test_structure.py", *GUARDS),
    "invarlock/guards/variance.py": GUARDS,
    "invarlock/guards/weight_changes.py": GUARDS,
    "invarlock/judgement/expectations.py": ("tests/invarlock/evaluation/test_declared_changes.py",),
    "invarlock/judgement/widths.py": ("tests/invarlock/evaluation/test_declared_changes.py",),
    "invarlock/judgement/gate.py": (f"{REPORTS}/test_gates.py", *GUARDS),
    "invarlock/judgement/learning.py": (f"{REPORTS}/test_presets.py", *GUARDS),
    "invarlock/judgement/null_level.py": (f"{REPORTS}/test_null_level.py",),
    "invarlock/judgement/slices.py": ("tests/invarlock/evaluation/test_slices.py",),
    "invarlock/judgement/shares.py": (f"{REPORTS}/test_shares.py", *GUARDS),
    "invarlock/reports/gates.py": (f"{REPORTS}/test_gates.py", f"{REPORTS}/test_overhead.py"),
    "invarlock/reports/margins.py": (f"{REPORTS}/test_margins.py",),
    "invarlock/reports/null_runs.py": (f"{REPORTS}/test_presets.py",),
    "invarlock/reports/overhead.py": (f"{REPORTS}/test_overhead.py",),
    "invarlock/reports/policy.py": (f"{REPORTS}/test_policy.py", f"{REPORTS}/test_presets.py"),
    "invarlock/reports/presets.py": (f"{REPORTS}/test_presets.py",),
    "invarlock/reports/repeats.py": (f"{REPORTS}/test_repeats.py",),
    "invarlock/reports/tier_fitting.py": (f"{REPORTS}/test_tier_fitting.py", "tests/invarlock/test_cli.py"),
    # the verdict
    "invarlock/verdict/compiling.py": VERDICT,
    "invarlock/verdict/detectors.py": VERDICT,
    "invarlock/verdict/guard_value.py": VERDICT,
    "invarlock/verdict/rendering.py": VERDICT,
    "invarlock/verdict/summaries.py": (*VERDICT, f"{PACKER}/test_strong_evidence.py", f"{PACKER}/test_verify.py"),
    # edits
    "invarlock/checkpoints/editing.py": (
        f"{CHECKPOINTS}/test_editing.py",
        "tests/invarlock/edits",
        f"{CHECKPOINTS}/test_moving.py",
    ),
    "invarlock/edits/edit.py": (*EDITS, f"{REPORTS}/test_schemas.py"),
    "invarlock/edits/fp8_quant.py": EDITS,
    "invarlock/edits/lowrank_svd.py": EDITS,
    "invarlock/edits/magnitude_prune.py": EDITS,
    "invarlock/edits/noop.py": EDITS,
    "invarlock/edits/packed_rtn.py": ("tests/invarlock/faults/test_packed.py",),
    "invarlock/edits/quant_rtn.py": EDITS,
    "invarlock/edits/rotated_rtn.py": (f"{CHECKPOINTS}/test_moving.py",),
    "invarlock/edits/rows.py": EDITS,
    "invarlock/edits/smoothed_rtn.py": (f"{CHECKPOINTS}/test_moving.py",),
    # leases
    "invarlock/harness/devices/leases.py": (f"{HARNESS}/test_lease_queue.py", f"{HARNESS}/test_leases.py"),
    "invarlock/harness/state/locks.py": (f"{HARNESS}/test_locks.py",),
    "invarlock/harness/devices/memory_plan.py": (f"{HARNESS}/test_memory_plan.py", f"{HARNESS}/test_leases.py"),
    # resuming
    "invarlock/harness/baselines/resuming.py": (f"{HARNESS}/test_kept.py",),
}
