import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from processes import packer, succeed

from invarlock.runtime.handover import code_digest

ROOT = Path(__file__).parents[3]


def test_the_example_of_an_own_suite_runs_to_a_pack_that_verifies(run_pytest: Callable[..., Any]) -> None:
    ran = run_pytest(suites=ROOT / "examples/own-suite")

    assert ran.status == 0, ran.output
    assert "suite own: 2 cases on 1 model" in ran.output
    assert "3 passed, 1 skipped" in ran.output
    assert "skipped  mistral-tiny  one_nan" in ran.output
    succeed(packer("verify", ran.pack, "--strict", "--require-pass"))
    product = json.loads((ran.pack / "metadata/environment.json").read_bytes())["product"]
    assert product["code"] == code_digest()
    assert product["version"] == version("invarlock")
