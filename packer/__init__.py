"""Evidence packs: their ``format`` on disk, ``trust`` in signers, ``verify``, ``build``, and the ``runs`` behind them.

Example::

    import invarlock

    result = invarlock.packer.verify("evidence_pack")
    result.ok, result.problems

A receiver needs this package and the light core only; nothing here imports PyTorch, transformers or pytest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invarlock.packer.verify.options import VerifyOptions
    from invarlock.packer.verify.result import VerifyResult


def verify(path: Path | str, options: VerifyOptions | None = None) -> VerifyResult:
    """Verify a pack offline and return the result, which lists any problems.

    A subpackage has the same name. Once imported, it replaces this function, but it can be called in the same way.

    Args:
        path: the pack's folder, or an archive of it.
        options: the receiver's requirements.

    Raises:
        InvarLockError: when the options exclude each other, or a file that they name cannot be used.
    """
    # imported here: importing the package must stay light
    from invarlock.packer.verify.options import VerifyOptions
    from invarlock.packer.verify.verifying import verify_pack

    return verify_pack(Path(path), options or VerifyOptions())
