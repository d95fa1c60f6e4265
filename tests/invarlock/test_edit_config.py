"""The file of --edit-config: what it gives, what wins over it, and what it may not do."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from invarlock.catalog.edit_specs import parse_edit_spec
from invarlock.catalog.models import read_models
from invarlock.catalog.tuned_params import NO_TUNED_PARAMS, read_tuned_params
from invarlock.cli import main
from invarlock.errors import UsageError
from invarlock.jsonio import check_schema
from invarlock.settings import SETTINGS, Mode, Setting, Settings, resolve_settings, settings_page, unread_settings
from invarlock.settings.edit_config import may_be_in_config, read_edit_config

ROOT = Path(__file__).parents[2]
PRUNE = {"sparsity": 0.15, "scope": "ffn", "status": "selected", "edit_dir_name": "prune_clean", "reason": "agreed"}
HOST = Mode(sentinels=False, user_subjects=False, device="cpu", dataset="embedded")


def lay(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "site.yaml"
    path.write_text(text)
    return path


def resolve(path: Path, options: dict[str, Any] | None = None, **variables: str) -> Settings:
    return resolve_settings({"edit_config": str(path), **(options or {})}, variables)


def refused(path: Path, **variables: str) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(path, None, **variables)
    said = str(caught.value)
    assert said.isprintable()
    return said


def test_an_option_and_a_variable_beat_the_config_and_the_config_the_default(tmp_path: Path) -> None:
    path = lay(tmp_path, "settings: {tier: conservative, profile: ci, seq_len: 64, execution_mode: container}\n")

    settings = resolve(path, {"tier": "aggressive"}, PACK_VERIFY_PROFILE="release", INVARLOCK_ALLOW_HOST_EXECUTION="0")

    found = {name: settings.document()[name] for name in ("tier", "profile", "seq_len", "eval_batch", "execution_mode")}
    assert found == {
        "tier": {"value": "aggressive", "source": "option"},
        "profile": {"value": "release", "source": "variable"},
        "seq_len": {"value": 64, "source": "config"},
        "eval_batch": {"value": 16, "source": "default"},
        # the variable is empty
        "execution_mode": {"value": "container", "source": "config"},
    }
    assert settings.given("seq_len")
    assert settings.with_defaults({"seq_len": 128, "eval_batch": 8}).seq_len == 64
    assert settings.document()["edit_config"] == {"value": str(path), "source": "option"}


def test_the_variable_names_a_config_too_and_without_it_none_is_read(tmp_path: Path) -> None:
    path = lay(tmp_path, "settings: {tier: conservative}\n")

    settings = resolve_settings({}, {"INVARLOCK_EDIT_CONFIG": str(path)})

    assert (settings.tier, settings.sources["edit_config"]) == ("conservative", "variable")
    assert resolve_settings({}, {}).config is None


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("report_assurance: off", "report_assurance", "off"),
        ("case_timeout: 90m", "case_timeout", 5400),
        ("shard: 1/3", "shard", (1, 3)),
        ("min_free_disk_gb: 0.5", "min_free_disk_gb", 0.5),
        ("hf_config: 1.10", "hf_config", "1.10"),
        ("net: true", "net", True),
        ("net: 0", "net", False),
        ("error_injection: False", "error_injection", False),
        ("unsigned: true", "unsigned", True),
        ("keep_models: true", "keep_models", True),
        ("scenario_ids: [a_clean, b_clean]", "scenario_ids", ("a_clean", "b_clean")),
        ("scenario_ids: a_clean, b_clean", "scenario_ids", ("a_clean", "b_clean")),
        ("guards_order: [rmt, spectral]", "guards_order", ("rmt", "spectral")),
        ("subjects: [one, two]", "subjects", ("one", "two")),
        ("subjects: one", "subjects", ("one",)),
        ("model_2: ''", "model_2", ""),
    ],
)
def test_a_value_means_what_its_option_means(tmp_path: Path, written: str, name: str, value: Any) -> None:
    settings = resolve(lay(tmp_path, f"settings:\n  {written}\n"))

    assert (settings.value(name), settings.sources[name]) == (value, "config")


@pytest.mark.parametrize("written", ["tier:", "tier: ~", "tier: ''"])
def test_a_value_that_is_empty_counts_as_not_given(tmp_path: Path, written: str) -> None:
    settings = resolve(lay(tmp_path, f"settings:\n  {written}\n"))

    assert (settings.tier, settings.sources["tier"]) == ("balanced", "default")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_read_from_a_config_or_refused_there(tmp_path: Path, setting: Setting) -> None:
    values: tuple[str, ...] = (
        "true",
        "host",
        "full",
        "eager",
        "native",
        "1",
        "1/2",
        "embedded",
        "strict",
        "wikitext2",
        "rmt",
        "info",
        "ci",
        "balanced",
        "preserve",
    )
    # a release review needs a key too
    values += ("podman", "snapshot_copy", "custom", "64", "layers-1", "true, signing_key: k.pem", "ray", "array=4")
    sources = set()
    for value in values:
        try:
            settings = resolve(lay(tmp_path, f"settings: {{{setting.name}: {value}}}\n"))
        except UsageError as error:
            if f"{setting.name} cannot be set in a config; use " in str(error):
                sources.add("refused")
        else:
            sources.add(settings.sources[setting.name])

    assert sources == ({"config"} if may_be_in_config(setting) else {"refused"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settings: {tier: strict}", "settings: tier: 'strict' is not allowed (use one of balanced, "),
        ("settings: {net: yes}", "settings: net: 'yes' is not allowed (use true or false"),
        ("settings: {net: [true]}", "settings: net: ('true',) is not allowed (use true or false"),
        ("settings: {seq_len: 1}", "settings: seq_len: '1' is not allowed (use a whole number from 2 to "),
        ("settings: {tiers: balanced}", "settings: unknown setting 'tiers' (did you mean tier?)"),
        ("settings: {INVARLOCK_TIER: balanced}", "settings: 'INVARLOCK_TIER' is named tier in a config"),
        ("settings: {--tier: balanced}", "settings: '--tier' is named tier in a config"),
        ("settings: {hf_home: /x}", "settings: hf_home cannot be set in a config; use HF_HOME"),
        ("settings: {allow_config_include_outside: 1}", "settings: allow_config_include_outside cannot be set in"),
        ("settings: {edit_config: b.yaml}", "settings: edit_config cannot be set in a config; use --edit-"),
        ("settings: [a]", "does not match the edit_config format: at /settings: "),
        ("settings: {tier: {a: b}}", "does not match the edit_config format: at /settings/tier: "),
        ("settings: {scenario_ids: []}", "does not match the edit_config format: at /settings/scenario_ids: "),
        ("setting: {tier: strict}", "unknown key 'setting' (did you mean settings?); a config has settings and edits"),
        ("model: {id: gpt2}", "unknown key 'model'; a config has settings and edits"),
        ("", "has neither settings nor edits"),
        ("[1]", "has neither settings nor edits"),
        ("{}", "has neither settings nor edits"),
        ("edits: {m: {magnitude_prune: {sparsity: 2}}}", "does not match the edit_config format: at /edits/m/"),
        ("edits: {m: {magnitude_prune: {sparsity: '0.1'}}}", "does not match the edit_config format: at /edits/m/"),
        ("edits: {m: {sparse_gpt: {}}}", "does not match the edit_config format: at /edits/m: "),
        ("edits: [m]", "does not match the edit_config format: at /edits: "),
    ],
)
def test_a_config_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = lay(tmp_path, text)

    assert refused(path).startswith(f"{path}: {said}")


def test_mistakes_in_config_and_variables_are_listed_at_once(tmp_path: Path) -> None:
    path = lay(tmp_path, "settings: {tier: strict, profile: ci}\n")
    said = refused(path, INVARLOCK_SEQ_LEN="one", INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE="maybe")
    assert [line.partition(" is not allowed")[0] for line in said.split("; ")] == [
        "INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE: 'maybe'",
        "INVARLOCK_SEQ_LEN: 'one'",
    ]
    said = refused(path, INVARLOCK_SEQ_LEN="one")
    assert [line.partition(" is not allowed")[0] for line in said.split("; ")] == [
        f"{path}: settings: tier: 'strict'",
        "INVARLOCK_SEQ_LEN: 'one'",
    ]
    assert refused(lay(tmp_path, "settings: {unsigned: true, signing_key: k.pem}")) == (
        "--unsigned and --signing-key cannot be combined; drop one"
    )


def test_includes_are_bounded_by_the_configs_folder_or_the_root_above_it(tmp_path: Path) -> None:
    path = lay(tmp_path / "sites", "settings: !include ../base.yaml\n")
    (tmp_path / "base.yaml").write_text("tier: conservative\n")
    (tmp_path / "elsewhere").mkdir()

    assert f"is outside {tmp_path}/sites;" in refused(path)
    assert f"is outside {tmp_path}/sites;" in refused(path, INVARLOCK_CONFIG_ROOT=str(tmp_path / "elsewhere"))
    assert f"is outside {tmp_path}/sites;" in refused(path, INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE="0")
    absent = tmp_path / "absent"
    assert refused(path, INVARLOCK_CONFIG_ROOT=str(absent)) == f"INVARLOCK_CONFIG_ROOT: {absent}: no such folder"
    for variables in (
        {"INVARLOCK_CONFIG_ROOT": str(tmp_path)},
        {"INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE": "1"},
    ):
        settings = resolve(path, None, **variables)
        assert (settings.tier, settings.sources["tier"]) == ("conservative", "config")
        assert settings.config is not None
        assert settings.config.files == (path, tmp_path / "base.yaml")


def test_a_relative_config_and_root_are_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "sites", "settings: !include ../base.yaml\n")
    (tmp_path / "base.yaml").write_text("tier: conservative\n")
    monkeypatch.chdir(tmp_path)

    settings = resolve(Path("sites/site.yaml"), INVARLOCK_CONFIG_ROOT=".")

    assert settings.tier == "conservative"


def test_edits_take_the_place_of_the_files_entries_and_say_so(tmp_path: Path) -> None:
    model, other = "mistralai/Mistral-7B-v0.1", "someone/new"
    path = lay(tmp_path, f"edits:\n  {model}: {{magnitude_prune: !include p.json}}\n  {other}: !include q.json\n")
    (tmp_path / "p.json").write_text(json.dumps(PRUNE))
    (tmp_path / "q.json").write_text(json.dumps({"magnitude_prune": PRUNE}))
    config = read_edit_config(path)
    file = read_tuned_params(ROOT / "suites/tuned_edit_params.json")

    tuned = file.with_edits(config.edits, config.path.name)

    prune, quantise = parse_edit_spec("magnitude_prune:clean:attn"), parse_edit_spec("quant_rtn:clean:ffn")
    assert str(tuned.resolve(prune, model)) == str(tuned.resolve(prune, other)) == "magnitude_prune:0.15:ffn"
    assert str(file.resolve(prune, model)) != "magnitude_prune:0.15:ffn"
    assert tuned.resolve(quantise, model) == file.resolve(quantise, model)
    document = tuned.document_of([model])
    check_schema(document, "tuned_edit_params", where="document")
    assert document["models"] == {model: {**file.models[model], "magnitude_prune": {**PRUNE, "given_by": "site.yaml"}}}
    alone = NO_TUNED_PARAMS.with_edits(config.edits, config.path.name)
    assert (alone.source, list(alone.models)) == ("site.yaml", [model, other])


@pytest.mark.parametrize(
    ("variables", "mode", "why"),
    [
        ({"PACK_TUNED_EDIT_PARAMS_FILE": "p.json"}, HOST, "PACK_TUNED_EDIT_PARAMS_FILE gives all parameters"),
        ({}, Mode(False, True, "cpu", "embedded"), "-m byoe makes no edit"),
        ({}, HOST, None),
    ],
)
def test_edits_that_nothing_reads_are_named(
    tmp_path: Path, variables: dict[str, str], mode: Mode, why: str | None
) -> None:
    path = lay(tmp_path, f"edits: {json.dumps({'m': {'magnitude_prune': PRUNE}})}\nsettings: {{edit_label: custom}}")

    lines = list(unread_settings(resolve(path, None, **variables), mode, variables))

    wanted = [] if why is None else [f"{path}: edits: it has no effect: {why}"]
    assert [line for line in lines if ": edits: " in line] == wanted
    label = f"{path}: settings: edit_label: it has no effect: only -m byoe reads it"
    assert (label in lines) is not mode.user_subjects


def test_the_locating_settings_are_unread_without_a_config() -> None:
    variables = {"INVARLOCK_CONFIG_ROOT": "x", "INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE": "1"}

    lines = [line.partition(":")[0] for line in unread_settings(resolve_settings({}, variables), HOST, variables)]

    assert lines == list(variables)


def test_the_published_schema_has_the_settings_of_the_table_and_the_edits_of_the_tuned_parameters() -> None:
    schema, tuned = (
        json.loads((ROOT / f"contracts/{name}.schema.json").read_bytes())
        for name in ("edit_config", "tuned_edit_params")
    )

    assert list(schema["properties"]) == ["edits", "settings"]
    assert sorted(schema["properties"]["settings"]["properties"]) == sorted(
        setting.name for setting in SETTINGS if may_be_in_config(setting)
    )
    assert schema["properties"]["edits"] == tuned["properties"]["models"]
    assert schema["$defs"]["bounded"] == tuned["$defs"]["bounded"]
    # as an editor reads the file, with numbers and flags where a run keeps the text
    check_schema({"settings": {"seq_len": 64, "net": True, "tier": None, "subjects": ["a"]}}, "edit_config", where="x")


def test_the_example_of_the_page_is_a_config(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", settings_page(), flags=re.DOTALL)
    path = lay(tmp_path, example)
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits/mistral.yaml").write_text(json.dumps({"magnitude_prune": PRUNE}))

    settings = resolve(path)

    assert settings.config is not None
    given = {name for name, source in settings.sources.items() if source == "config"}
    assert given == set(settings.config.settings)
    assert len(given) == 6
    known = read_models(ROOT / "suites/models.toml").models
    assert set(settings.config.edits) <= set(known)


def test_a_command_that_reads_settings_ends_with_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith(("PACK_", "INVARLOCK_"))]:
        monkeypatch.delenv(name)
    path = lay(tmp_path, "settings: {tier: a, tier: b}\n")
    monkeypatch.setenv("INVARLOCK_EDIT_CONFIG", str(path))

    code = main(
        [
            *("evaluate", "--execution-mode", "container", "--baseline", str(tmp_path), "--subject", str(tmp_path)),
            *("--text", str(path), "--output-dir", str(tmp_path / "out")),
        ]
    )

    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: line 1: key 'tier' appears twice in one table" in line
