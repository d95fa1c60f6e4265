"""Optional packages: each option that needs one says so before anything is measured."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from invarlock.checkpoints.model_signatures import parse_signature
from invarlock.errors import InvarLockError, UsageError
from invarlock.evaluation import needed_packages
from invarlock.evaluation.early_checks import check_pair
from invarlock.evaluation.needed_packages import check_runner, check_signing, check_tasks
from invarlock.evaluation.pair_request import PairRequest
from invarlock.problems import Code

Installed = Callable[..., None]
METHODS = ("auto-round", "awq", "bitsandbytes", "compressed-tensors", "gptq", "torchao")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Return a function that lets only the given packages be found."""

    def only(*packages: str) -> None:
        spec = importlib.util.find_spec("json")
        monkeypatch.setattr(needed_packages, "find_spec", lambda name: spec if name in packages else None)

    return only


def stored_as(method: str | None, folder: Path) -> Path:
    """Return a folder whose config names the method by which its weights are packed."""
    stated = {} if method is None else {"quantization_config": {"quant_method": method}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **stated}))
    return folder


def test_signatures_and_tasks_name_their_extra(installed: Installed) -> None:
    installed()

    for check, words in ((check_signing, "'invarlock[model-signatures]'"), (check_tasks, "'invarlock[tasks]'")):
        with pytest.raises(UsageError) as raised:
            check()
        assert raised.value.code is Code.EXTRA_NOT_INSTALLED
        assert f"is not installed; install it: pip install {words}" in str(raised.value)

    installed("model_signing", "lm_eval")
    check_signing()
    check_tasks()


@pytest.mark.parametrize("method", METHODS)
def test_native_scoring_names_the_package_that_runs_the_format(
    method: str, installed: Installed, tmp_path: Path
) -> None:
    packages, named = needed_packages.RUNNERS[method]
    subject = stored_as(method, tmp_path / "subject")

    installed(*packages)
    check_runner(subject)
    for package in packages:
        installed(*(other for other in packages if other != package))
        with pytest.raises(UsageError) as raised:
            check_runner(subject)
        assert raised.value.code is Code.EXTRA_NOT_INSTALLED
        assert f"needs the package {package}; install it: pip install {named}, or use" in str(raised.value)


@pytest.mark.parametrize("method", [None, "fp8", "mxfp4"])
def test_native_scoring_of_other_formats_needs_nothing_that_can_be_looked_up(
    method: str | None, installed: Installed, tmp_path: Path
) -> None:
    installed()

    check_runner(stored_as(method, tmp_path / "subject"))


def test_a_missing_package_is_reported_with_the_other_problems(installed: Installed, tmp_path: Path) -> None:
    installed()
    (tmp_path / "maker.pub").touch()
    wanted = (parse_signature(f"subject=key:{tmp_path / 'maker.pub'}"),)
    subject = stored_as("torchao", tmp_path / "subject")
    none = tmp_path / "none"
    request = PairRequest(none, subject, none, scoring="native", model_signatures=wanted)

    with pytest.raises(InvarLockError) as raised:
        check_pair(request, tmp_path / "out")

    lines = [str(problem) for problem in raised.value.problems if problem.code is Code.EXTRA_NOT_INSTALLED]
    assert [line.partition(":")[0] for line in lines] == ["--scoring native", "--model-signature"]
