"""Evidence packs: ``format`` on disk, ``trust`` in signers, ``verify``, ``build``, and ``runs`` they come from.

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
    """Verify a pack, offline; its problems are in the result.

    This name is also that of a subpackage. Once the subpackage is imported it has the name, and can be called as well.

    Args:
        path: the folder of the pack, or an archive of it.
        options: the requirements of a receiver.

    Raises:
        InvarLockError: when the options exclude each other, or a file that they name cannot be used.
    """
    # imported here: importing the package must stay light
    from invarlock.packer.verify.options import VerifyOptions
    from invarlock.packer.verify.verifying import verify_pack

    return verify_pack(Path(path), options or VerifyOptions())
