"""The decisions of the product's pytest entry point, recorded by a plugin that ends pytest before collection."""

from __future__ import annotations

from pathlib import Path

import pytest

from invarlock.harness import plugin
from invarlock.harness.opening import OPEN_SUITE, open_suite

ROOT = Path(__file__).parents[3]
SUITES = ROOT / "suites"


class Recorder:
    """Records pytest's configuration, and ends pytest when its session would begin."""

    config: pytest.Config | None = None

    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        self.config = config
        return 0


def entered(*arguments: str) -> pytest.Config:
    """Return pytest's configuration after the product's plugin has handled some arguments."""
    recorder = Recorder()
    base = ["-p", "invarlock.harness.plugin", "-p", "no:hypothesispytest", "--rootdir", str(ROOT)]
    assert pytest.main([*base, *arguments], plugins=[recorder]) == 0
    assert recorder.config is not None
    return recorder.config


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-n", "2"], "worksteal"),
        (["-n", "2", "--dist", "load"], "load"),
        (["-n", "2", "--dist", "loadfile"], "loadfile"),
        (["-n", "2", "-d"], "load"),
        ([], "no"),
    ],
)
def test_workers_steal_work_unless_the_command_line_names_another_way(arguments: list[str], expected: str) -> None:
    assert entered(str(SUITES), *arguments).option.dist == expected


def test_workers_of_another_folder_are_left_to_xdist(tmp_path: Path) -> None:
    config = entered(str(tmp_path), "-n", "2")

    assert config.option.dist == "load"
    assert OPEN_SUITE not in config.stash


def test_a_suite_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = entered(str(SUITES), "-m", "subset", "--execution-mode", "host")

    suite = config.stash[OPEN_SUITE]
    assert (suite.folder, suite.catalog.suite, suite.handover) == (SUITES, "subset", None)
    assert suite.settings.execution_mode == "host"
    monkeypatch.setenv("INVARLOCK_TIER", "no tier")
    assert open_suite(config) is suite


def test_listing_options_open_no_suite_before_the_session() -> None:
    assert OPEN_SUITE not in entered(str(SUITES), "--collect-only").stash


def test_a_setting_that_is_wrong_is_a_usage_error_before_the_session(capfd: pytest.CaptureFixture[str]) -> None:
    status = pytest.main(["-p", "invarlock.harness.plugin", "--rootdir", str(ROOT), str(SUITES), "--tier", "none"])

    assert status == pytest.ExitCode.USAGE_ERROR
    assert "--tier" in capfd.readouterr().err


@pytest.mark.parametrize(("given", "workers"), [({}, 1), ({"PYTEST_XDIST_AUTO_NUM_WORKERS": "2"}, None)])
def test_auto_starts_a_worker_for_each_core_that_may_be_used(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], workers: int | None
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(plugin, "usable_cores", lambda: 1)
    outside = plugin.pytest_xdist_auto_num_workers(pytestconfig)
    monkeypatch.setattr(plugin, "find_suites_folder", lambda _: Path("suites"))

    assert outside is None
    assert plugin.pytest_xdist_auto_num_workers(pytestconfig) == workers
