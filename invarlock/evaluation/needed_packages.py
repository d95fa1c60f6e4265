"""The optional packages that the options of an evaluation need, found without importing them.

Example::

    check_signing()    # UsageError: --model-signature: the package model-signing is not installed; …
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from invarlock.checkpoints.formats.folder import find_quantisation
from invarlock.checkpoints.layout import checkpoint_folder, find_gguf
from invarlock.errors import UsageError
from invarlock.problems import Code

# The packages with which transformers runs weights as they are stored, by quant_method: their import names, and what
# pip installs. Other methods need no package, or one that depends on the device; loading reports it.
RUNNERS = {
    "auto-round": (("auto_round",), "auto-round"),
    "awq": (("gptqmodel",), "gptqmodel"),
    "bitsandbytes": (("accelerate", "bitsandbytes"), "'invarlock[suite,deployable]'"),
    "compressed-tensors": (("compressed_tensors",), "compressed-tensors"),
    "gptq": (("optimum", "gptqmodel"), "optimum gptqmodel"),
    "torchao": (("torchao",), "'invarlock[deployable]'"),
}


def check_signing() -> None:
    """Check that the library of model signatures is installed.

    Raises:
        UsageError: when it is not.
    """
    _check(
        "model_signing",
        "--model-signature: the package model-signing is not installed; install it: pip install "
        "'invarlock[model-signatures]'",
    )


def check_tasks() -> None:
    """Check that lm-evaluation-harness is installed with this interpreter.

    Raises:
        UsageError: when it is not.
    """
    _check(
        "lm_eval",
        "--tasks: lm-evaluation-harness is not installed; install it: pip install 'invarlock[tasks]', or name the "
        "interpreter of another environment with --tasks-python",
    )


def check_runner(subject: Path) -> None:
    """Check that the packages are installed that run a subject's weights as they are stored.

    Raises:
        UsageError: when one is not.
        CheckpointError: when the subject's configuration cannot be read.
    """
    if find_gguf(subject):
        return
    method, _, _ = find_quantisation(checkpoint_folder(subject))
    packages, named = RUNNERS.get(method or "", ((), ""))
    for package in packages:
        _check(
            package,
            f"--scoring native: {subject.name} is stored as {method}, which needs the package {package}; install it: "
            f"pip install {named}, or use --scoring dequantised",
        )


def _check(package: str, message: str) -> None:
    if find_spec(package) is None:
        raise UsageError(message, code=Code.EXTRA_NOT_INSTALLED)
