from pathlib import Path

import pytest

from invarlock.errors import UsageError
from invarlock.settings import SETTINGS, resolve_settings, settings_page


def test_an_option_beats_its_variable_and_a_variable_the_default() -> None:
    settings = resolve_settings({"tier": "aggressive"}, {"INVARLOCK_TIER": "conservative", "PACK_VERIFY_PROFILE": "ci"})

    assert (settings["tier"], settings.sources["tier"]) == ("aggressive", "option")
    assert (settings["profile"], settings.sources["profile"]) == ("ci", "variable")
    assert (settings["eval_batch"], settings.sources["eval_batch"]) == (16, "default")


def test_a_variable_that_is_empty_counts_as_not_set() -> None:
    assert resolve_settings({}, {"INVARLOCK_TIER": ""})["tier"] == "balanced"


def test_the_first_of_a_settings_variables_wins() -> None:
    assert resolve_settings({}, {"OUTPUT_DIR": "b", "PACK_OUTPUT_DIR": "a"})["output_dir"] == "a"


@pytest.mark.parametrize(
    ("variable", "name"), [("PACK_SIGN_MANIFEST", "unsigned"), ("PACK_CLEANUP_MODELS", "keep_models")]
)
def test_a_variable_that_says_the_opposite_of_its_option_is_turned_round(variable: str, name: str) -> None:
    assert resolve_settings({}, {variable: "0"})[name] is True
    assert resolve_settings({}, {variable: "1"})[name] is False
    assert resolve_settings({name: True}, {variable: "1"})[name] is True


def test_all_wrong_values_are_told_at_once_with_what_is_allowed() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_settings({"tier": "strict"}, {"INVARLOCK_SEQ_LEN": "one", "PACK_SIGN_MANIFEST": "yes"})

    assert str(caught.value) == (
        "--tier: 'strict' is not allowed, it takes one of balanced, conservative, aggressive; "
        "PACK_SIGN_MANIFEST: 'yes' is not allowed, it takes 0 or 1; "
        "INVARLOCK_SEQ_LEN: 'one' is not allowed, it takes a whole number from 2 to 1048576"
    )


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="--unsigned and --signing-key exclude each other"):
        resolve_settings({"unsigned": True, "signing_key": "k.pem"}, {})
    with pytest.raises(UsageError, match="--no-pack and --pack-dir exclude each other"):
        resolve_settings({"no_pack": True, "pack_dir": "p"}, {})


def test_scenario_ids_are_names_separated_by_commas() -> None:
    settings = resolve_settings({"scenario_ids": "nan_injection, prune_clean"}, {})

    assert settings["scenario_ids"] == ("nan_injection", "prune_clean")
    assert settings.document()["scenario_ids"] == {"value": ["nan_injection", "prune_clean"], "source": "option"}


def test_no_two_settings_share_an_option_or_a_variable() -> None:
    names = [name for row in SETTINGS for name in (row.option, *row.variables) if name]

    assert len(names) == len(set(names))
    assert all(row.option or row.variables for row in SETTINGS)


def test_the_page_of_settings_is_the_table_in_the_code() -> None:
    page = Path(__file__).parents[2] / "docs" / "settings.md"

    assert page.read_text() == settings_page(), "write it anew: python -m invarlock.settings > docs/settings.md"
