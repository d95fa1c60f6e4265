"""Verifying a pack in seven steps: ``verifying`` runs them in order; each other module is a step or part of one.

The claims of a pack are derived from its raw measurements by the same functions that ``build`` uses.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invarlock.packer.verify.options import VerifyOptions
    from invarlock.packer.verify.result import VerifyResult


class _CallableModule(ModuleType):
    """Makes this package callable, so that ``invarlock.packer.verify(path)`` verifies a pack."""

    def __call__(self, path: Path | str, options: VerifyOptions | None = None) -> VerifyResult:
        # imported here: importing the package must stay light
        from invarlock.packer.verify.options import VerifyOptions
        from invarlock.packer.verify.verifying import verify_pack

        return verify_pack(Path(path), options or VerifyOptions())


sys.modules[__name__].__class__ = _CallableModule
