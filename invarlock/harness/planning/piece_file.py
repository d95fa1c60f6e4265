"""The file with which the controller of a fleet gives a node the cases of its piece and of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.errors import DocumentError
from invarlock.jsonio import read_json, write_json
from invarlock.problems import Code


@dataclass(frozen=True)
class PieceFile:
    """The cases that a node runs.

    Attributes:
        cases: the ids of the cases in the piece.
        whole: the ids of all cases of the run.
        baseline_only: whether only the baselines and presets of the cases are made.
    """

    cases: tuple[str, ...]
    whole: tuple[str, ...]
    baseline_only: bool = False

    def write(self, path: Path) -> None:
        """Write the file."""
        write_json(path, {"cases": list(self.cases), "whole": list(self.whole), "baseline_only": self.baseline_only})

    @staticmethod
    def read(path: Path) -> PieceFile:
        """Read the file.

        Raises:
            DocumentError: when the file is not the file of a piece.
        """
        document: Any = read_json(path)
        lists = [document.get(name) for name in ("cases", "whole")] if isinstance(document, dict) else [None]
        if not all(isinstance(ids, list) and all(isinstance(one, str) for one in ids) for ids in lists):
            message = "not the cases of a piece; --fleet writes this file"
            raise DocumentError(message, where=str(path), code=Code.DOCUMENT_MALFORMED)
        return PieceFile(tuple(document["cases"]), tuple(document["whole"]), document.get("baseline_only") is True)
