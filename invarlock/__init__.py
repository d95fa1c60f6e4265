"""InvarLock: validate edited language-model checkpoints and seal the evidence.

Example::

    import invarlock

    result = invarlock.evaluate("base", "quantised", "held-out.txt", "out")
    result.verdict, result.problems
    invarlock.verify("out").holds

``invarlock.api`` has all public names. A name is imported when it is first used; ``__init__.pyi`` has the types.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

__version__ = "0.1.0"
__all__ = ["Evaluation", "__version__", "api", "evaluate", "packer", "verify"]

_OF_THE_API = ("Evaluation", "evaluate", "verify")
_SUBPACKAGES = ("api", "packer")

# A checkout keeps these packages next to this folder, an installed package inside it. Python first searches its
# working directory: in a checkout it finds this folder, whether or not a wheel is installed.
_BESIDE = {"invarlock.packer": "packer", "invarlock.contracts": "contracts", "invarlock.suite": "suites"}
_checkout = Path(__file__).resolve().parent.parent


class _CheckoutFinder:
    """Finds only the packages that a checkout keeps next to this one."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in _BESIDE:
            return None
        folder = _checkout / _BESIDE[name]
        if (folder / "__init__.py").is_file():
            return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec


if (_checkout / "packer" / "__main__.py").is_file() and (_checkout / "contracts" / "tiers.json").is_file():
    sys.meta_path.insert(0, _CheckoutFinder)


def __getattr__(name: str) -> object:
    if name in _SUBPACKAGES:
        return import_module(f"invarlock.{name}")
    if name in _OF_THE_API:
        found = globals()[name] = getattr(import_module("invarlock.api"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
