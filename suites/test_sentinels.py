"""Promotion sentinels: do the subjects that a run kept load and evaluate? Only with ``-m sentinel``."""

from pathlib import Path

from invarlock.harness.cases.sentinels import missing_files


def test_sentinel(sentinel: str, sentinel_folder: Path) -> None:
    assert missing_files(sentinel, sentinel_folder) == []
