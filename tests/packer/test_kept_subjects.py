from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.verify.verifying import kept_subjects_warnings
from packs import REPORT, edit_json, strict


def manifest(**parameters: Any) -> Any:
    return {"invocation": {"parameters": parameters}}


@pytest.mark.parametrize("stated", [True, False])
def test_reports_that_agree_with_the_settings_give_no_warning(stated: bool) -> None:
    settings = manifest(keep_models={"value": stated, "source": "option"})

    assert list(kept_subjects_warnings(settings, [stated] * 3)) == []
    assert list(kept_subjects_warnings(settings, [])) == []


@pytest.mark.parametrize("stated", [True, False])
def test_reports_of_another_run_are_counted(stated: bool) -> None:
    settings = manifest(keep_models={"value": stated, "source": "default"})

    (line,) = kept_subjects_warnings(settings, [stated, not stated, not stated])

    assert line.startswith("2 of 3 edit_metadata.json say run_directory_contains_edit_artifacts: ")
    assert line.endswith(f"keep_models is {str(stated).lower()}")


@pytest.mark.parametrize("settings", [{}, {"invocation": {}}, manifest(), manifest(keep_models=True)])
def test_a_manifest_without_the_setting_claims_nothing(settings: Any) -> None:
    assert list(kept_subjects_warnings(settings, [True, False])) == []


def test_a_pack_that_contradicts_its_run_verifies_with_a_warning(pack: Path, reseal: Callable[[Path], None]) -> None:
    assert not [line for line in strict(pack).warnings if "keep_models" in line]

    edit_json(
        (pack / REPORT).with_name("edit_metadata.json"), lambda m: m.update(run_directory_contains_edit_artifacts=True)
    )
    reseal(pack)
    result = strict(pack)

    assert result.code == 0
    (line,) = [line for line in result.warnings if "keep_models" in line]
    assert line.startswith("1 of 3 edit_metadata.json")
