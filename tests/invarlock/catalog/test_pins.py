"""Files of pins, as people and runs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from invarlock.catalog.pins import Pin, read_pins
from invarlock.errors import DocumentError

ONE = '{"model_id": "org/model", "revision": "1"}'
FILE = '{{"name": "{}", "sha256": "{}", "size_bytes": 1}}'


def written(tmp_path: Path, models: str) -> Path:
    path = tmp_path / "pins.json"
    path.write_text(f'{{"schema": "model_revisions_v1", "models": [{models}]}}')
    return path


def test_id_and_revision_are_enough(tmp_path: Path) -> None:
    pins = read_pins(written(tmp_path, ONE))

    assert pins.models == {"org/model": Pin("org/model", "1")}
    assert pins.models["org/model"].digest is None


@pytest.mark.parametrize(
    "models",
    [
        f"{ONE}, {ONE}",
        '{"model_id": "org/model"}',
        *(
            f'{{"model_id": "m", "revision": "1", "files": [{FILE.format(name, digest)}]}}'
            for name, digest in [("a", "0"), ("../a", "0" * 64), ("/a", "0" * 64), ("a\\nb", "0" * 64)]
        ),
    ],
)
def test_malformed_pins_are_refused(tmp_path: Path, models: str) -> None:
    with pytest.raises(DocumentError, match=r"pins\.json: "):
        read_pins(written(tmp_path, models))
