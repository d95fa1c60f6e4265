"""The single-machine run with which the tests of every cluster compare their results."""

from pathlib import Path

import pytest
from fleet_runs import start_run
from invarlock.packer.trust.keys import make_signing_key, write_key_pair
from processes import finish, succeed


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("key")
    write_key_pair(folder / "maker", make_signing_key())
    return folder / "maker.pem"


@pytest.fixture(scope="session")
def undivided(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    directory = tmp_path_factory.mktemp("undivided") / "run"
    succeed(finish(start_run(directory, "--signing-key", key)))
    return directory / "evidence_pack"
