"""Models of a user's choice in the slots of a suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from invarlock.catalog.models import Models, read_models
from invarlock.catalog.slots import fill_slots
from invarlock.errors import UsageError

SUITES = Path(__file__).parents[3] / "suites"


@pytest.fixture(scope="module")
def models() -> Models:
    return read_models(SUITES / "models.toml")


def test_slots_replace_leave_out_and_add(models: Models, tmp_path: Path) -> None:
    folder = tmp_path / "My Model"
    folder.mkdir()

    filled = fill_slots(models, "showcase", ["", "org/new", None, "Qwen/Qwen3-8B", str(folder)])

    assert filled.suites["showcase"].models == ("org/new", "Qwen/Qwen2.5-32B", "Qwen/Qwen3-8B", "local/My-Model")
    assert list(filled.suites) == ["showcase"]
    assert filled.models["Qwen/Qwen3-8B"] == models.models["Qwen/Qwen3-8B"]
    assert (filled.models["org/new"].path, filled.models["org/new"].weight_bytes) == (None, 0)
    assert filled.models["local/My-Model"].path == str(folder)
    assert filled.models["local/My-Model"].short_name == "my-model"


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (["", "", ""], "MODEL_1: every slot of suite showcase is empty; give a model"),
        (["./absent"], "MODEL_1: './absent' is neither a folder nor a hub id"),
        (["a/b/c", "x y"], "MODEL_1: 'a/b/c' is neither .*; MODEL_2: 'x y' is neither "),
        ([None, "mistralai/Mistral-7B-v0.1"], "MODEL_2: a second model named 'mistral-7b-v0.1'; give each model once"),
    ],
)
def test_invalid_slots_are_refused(models: Models, slots: list[str | None], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fill_slots(models, "showcase", slots)
