"""``!include`` in the YAML inputs of a container, which sees no more of the machine than what is mounted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

YAML_SUFFIXES = (".yaml", ".yml")
_INCLUDE = re.compile(r"""(?:^|[\s\[{,:-])!include\s+(?:"([^"\n]+)"|'([^'\n]+)'|([^\s,\]}#]+))""")


@dataclass(frozen=True)
class Include:
    """A file that a YAML input includes, and the input's folder, outside of which it should not lie."""

    by: Path
    file: Path
    folder: Path

    @property
    def is_outside(self) -> bool:
        # a link inside of the folder may lead out of it
        return not self.file.resolve().is_relative_to(self.folder.resolve())


def yaml_files(inputs: Iterable[Path]) -> list[Path]:
    """Return the YAML files among inputs and below those that are folders."""
    found: list[Path] = []
    for path in inputs:
        candidates = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [one for one in candidates if one.suffix in YAML_SUFFIXES and one.is_file()]
    return list(dict.fromkeys(found))


def includes(files: Iterable[Path], root: Path | None) -> Iterator[Include]:
    """Yield every include of YAML files, and of what they include.

    Args:
        files: the inputs.
        root: ``INVARLOCK_CONFIG_ROOT``, the folder of the inputs below it; another's is the one it lies in.
    """
    waiting, seen = [(path, path) for path in files], set[Path]()
    while waiting:
        path, given = waiting.pop(0)
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        folder = root if root is not None and given.is_relative_to(root) else given.parent
        for match in _INCLUDE.finditer(_without_comments(path)):
            file = Path(os.path.normpath(path.parent / (match[1] or match[2] or match[3])))
            yield Include(path, file, folder)
            if file.suffix in YAML_SUFFIXES:
                waiting.append((file, given))


def _without_comments(path: Path) -> str:
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))
