"""The settings of a run: one typed attribute for each row of the table.

Example::

    settings = resolve_settings({"tier": "aggressive"}, os.environ)
    settings.tier                  # "aggressive"
    settings.sources["tier"]       # "option"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from invarlock.settings.edit_config import EditConfig

Source = Literal["option", "variable", "config", "default"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The value of each setting, the source of each value, and the YAML config that was read.

    `table` documents each setting. A test checks that attributes and rows have the same names.
    """

    sources: Mapping[str, Source]
    config: EditConfig | None

    output_dir: str | None
    resume: bool
    edit_config: str | None
    config_root: str | None
    allow_config_include_outside: bool
    suite_mode: str
    log_level: str

    scenario_ids: tuple[str, ...] | None
    shard: tuple[int, int] | None
    fleet: str | None
    slurm: tuple[tuple[str, str], ...]
    piece_seconds: int
    piece: str | None
    run_dir: str | None
    sentinel_model: str | None
    baseline: str | None
    subjects: tuple[str, ...]
    edit_label: str | None
    expect: tuple[str, ...]
    model_signatures: tuple[str, ...]
    error_injection: bool
    model_1: str | None
    model_2: str | None
    model_3: str | None
    model_4: str | None
    model_5: str | None
    model_6: str | None
    model_7: str | None
    model_8: str | None

    tier: str
    profile: str
    intent: str
    determinism: str
    repeats: int
    repeat_scenarios: tuple[str, ...] | None
    window_seed: int
    guards_order: tuple[str, ...]
    calibration_preset_dir: str | None
    calibration_preset_file: str | None
    preset_cache: str | None
    tuned_params_file: str | None

    seq_len: int | None
    preview_windows: int | None
    final_windows: int | None
    eval_batch: int
    top_k: int
    store_eval_windows: bool
    dataset: str | None
    local_jsonl_file: str | None
    local_jsonl_field: str
    hf_dataset: str | None
    hf_config: str | None
    hf_split: str
    hf_field: str
    hf_revision: str | None

    net: bool
    model_revisions_file: str | None
    baseline_storage_mode: Literal["snapshot_copy", "snapshot_symlink"]
    keep_models: bool
    skip_disk_preflight: bool
    allow_remote_code: bool
    allow_pickled_weights: bool
    attention: str
    scoring: str
    skip_flash_attention: bool

    container_engine: Literal["podman", "docker"] | None
    runtime_image: str
    case_timeout: int
    cuda_visible_devices: str | None
    gpu_ids: tuple[str, ...] | None
    num_gpus: int | None
    gpu_memory_per_device: float | None
    gpu_min_free_gb: float
    gpu_require_idle: bool
    hf_home: str | None
    hf_hub_cache: str | None
    hf_datasets_cache: str | None
    transformers_cache: str | None
    tmpdir: str | None
    tmp: str | None

    no_pack: bool
    pack_dir: str | None
    signing_key: str | None
    unsigned: bool
    release_review: bool
    report_assurance: str
    defer_rendering: bool
    skip_html: bool

    # The suite has the defaults of these settings. They are None until the session calls `with_defaults`, before
    # anything reads them.
    clean_runs: int
    stress_runs: int
    calibration_runs: int
    execution_mode: str
    min_free_disk_gb: float

    def value(self, name: str) -> Any:
        """Return the value of a setting by its name in the table."""
        return getattr(self, name)

    def given(self, name: str) -> bool:
        """Return whether an option, a variable or the config gave the value."""
        return self.sources[name] != "default"

    def with_defaults(self, defaults: Mapping[str, Any]) -> Settings:
        """Return the settings with defaults for values that were not given."""
        return replace(self, **{name: value for name, value in defaults.items() if not self.given(name)})

    def document(self) -> dict[str, Any]:
        """Return the document for ``state/settings.json``: value and source by name."""
        return {
            name: {"value": list(value) if isinstance(value := self.value(name), tuple) else value, "source": source}
            for name, source in self.sources.items()
        }
