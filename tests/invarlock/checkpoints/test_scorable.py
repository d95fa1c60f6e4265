import json
from pathlib import Path

import pytest

from invarlock.checkpoints.scorable import check_scorable, max_positions
from invarlock.errors import CheckpointError, UsageError


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": "4096"}, None),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 128, "rope_scaling": {"factor": "x"}}, 128),
    ],
)
def test_the_positions_of_a_model_are_what_its_config_says(config: dict[str, object], expected: int | None) -> None:
    assert max_positions(config) == expected


def test_a_window_longer_than_the_positions_names_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 256}))

    check_scorable(tmp_path, 256)
    with pytest.raises(UsageError, match="--seq-len 512 exceeds the model's context of 256 tokens"):
        check_scorable(tmp_path, 512)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "t5", "architectures": ["T5X"], "is_encoder_decoder": True},
        [1],
    ],
)
def test_another_kind_of_model_than_a_causal_language_model_is_refused(tmp_path: Path, config: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(CheckpointError):
        check_scorable(tmp_path, 16)


def test_a_config_that_is_not_a_json_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder/config.json").mkdir(parents=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")

    for name in ("folder", "broken", "missing"):
        with pytest.raises(CheckpointError):
            check_scorable(tmp_path / name, 16)
