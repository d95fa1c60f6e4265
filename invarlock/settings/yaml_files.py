"""Reading a YAML file and its included files as plain values, within limits.

PyYAML parses the structure. Scalars are read as in JSON, with ``~`` for null: ``off``, ``1:30`` and ``2026-01-01`` stay
strings. The only supported tag is ``!include FILE``, so a file cannot create objects.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock.errors import DocumentError, MissingFileError, UsageError, printable
from invarlock.jsonio import read_file
from invarlock.problems import Code

YAML_ADVICE = "reading YAML files needs PyYAML: pip install 'invarlock[yaml]'"
# More than twice the size of the largest known file of edit parameters; PyYAML reads this much in a second.
MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 32
MAX_INCLUDE_DEPTH = 8
# The limit for all files together, counting each use of an alias.
MAX_VALUES = 20_000
MAX_DEPTH = 32
MAX_TEXT_CHARACTERS = 4096
MAX_NUMBER_CHARACTERS = 40
# The tags given to plain scalars, quoted scalars, and untagged lists and tables.
_PLAIN, _QUOTED, _COLLECTION = "plain", "quoted", "collection"
_INCLUDE = "!include"
_NULLS = ("", "~", "null", "Null", "NULL")
_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class YamlDocument:
    """The value of a YAML file, and the absolute paths of all files that were read for it."""

    value: Any
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Place:
    """The location of a value: its file, the including files, the depth, and whether scalars stay strings."""

    file: Path
    opened: tuple[Path, ...]
    depth: int = 0
    as_text: bool = False

    def where(self, node: Any) -> str:
        return f"{_shown(self.file)}: line {node.start_mark.line + 1}"


def read_yaml(path: Path, *, folder: Path | None, texts: Collection[str] = ()) -> YamlDocument:
    """Return the value of a file, with each ``!include`` replaced by the value of the included file.

    Args:
        path: the file; included paths are relative to the including file.
        folder: the folder that must contain all included files after resolving links; None allows any.
        texts: keys of the outermost table under which scalars stay strings.

    Raises:
        UsageError: when PyYAML is missing, or a file is missing, malformed, too large, part of an include cycle, or
            outside the folder; the message is one line.
    """
    if importlib.util.find_spec("yaml") is None:
        raise UsageError(f"{_shown(path)}: {YAML_ADVICE}", code=Code.EXTRA_NOT_INSTALLED)
    reader = _Reader(folder, texts)
    file = Path(os.path.normpath(Path.cwd() / path))
    value = reader.read(file, _Place(file, ()), _shown(path))
    return YamlDocument(value, tuple(reader.files))


class _Reader:
    def __init__(self, folder: Path | None, texts: Collection[str]) -> None:
        self.files: dict[Path, None] = {}
        self._folder = None if folder is None else folder.resolve()
        self._texts = texts
        self._yaml: Any = importlib.import_module("yaml")
        self._opened = 0
        self._values = 0

    def read(self, file: Path, at: _Place, where: str) -> Any:
        """Return the value of a file; ``where`` is the location of the request, for messages."""
        try:
            real, is_file = file.resolve(), file.is_file()
        except (OSError, RuntimeError, ValueError):
            # the file name is impossible, or links form a cycle
            raise UsageError("not a usable file name; correct it", code=Code.INCLUDE_REFUSED, where=where) from None
        if at.opened and self._folder is not None and not real.is_relative_to(self._folder):
            raise UsageError(
                f"!include {_shown(file)} is outside {_shown(self._folder)}; move it there, or allow it: "
                "INVARLOCK_ALLOW_CONFIG_INCLUDE_OUTSIDE=1",
                code=Code.INCLUDE_REFUSED,
                where=where,
            )
        if not is_file:
            raise UsageError(
                f"{where}: {_shown(file)} is not a file" if at.opened else f"{where}: no such file",
                code=Code.INCLUDE_REFUSED,
            )
        if real in at.opened:
            raise UsageError(f"!include {_shown(file)} is circular; remove it", code=Code.INCLUDE_REFUSED, where=where)
        if len(at.opened) > MAX_INCLUDE_DEPTH:
            raise UsageError(
                f"includes are nested deeper than {MAX_INCLUDE_DEPTH} files; join some",
                code=Code.INCLUDE_REFUSED,
                where=where,
            )
        self._opened += 1
        if self._opened > MAX_FILES:
            raise UsageError(
                f"more than {MAX_FILES} files are included; join some", code=Code.INCLUDE_REFUSED, where=where
            )
        self.files[file] = None
        node = self._compose(file)
        # an empty file has no node
        return None if node is None else self._value(node, _Place(file, (*at.opened, real), at.depth, at.as_text))

    def _compose(self, file: Path) -> Any:
        try:
            text = read_file(file, limit_bytes=MAX_FILE_BYTES).decode("utf-8-sig")
        except (DocumentError, MissingFileError) as error:
            raise UsageError(printable(str(error)), code=Code.CONFIG_MALFORMED) from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{_shown(file)}: not UTF-8 at byte {error.start}", code=Code.CONFIG_MALFORMED) from None
        try:
            loader = self._yaml.BaseLoader(text)
            compose, depth = loader.compose_node, 0

            def bounded(parent: Any, index: Any) -> Any:
                nonlocal depth
                depth += 1
                if depth > MAX_DEPTH:
                    raise UsageError(
                        f"{_shown(file)}: nested deeper than {MAX_DEPTH} levels", code=Code.CONFIG_MALFORMED
                    )
                node = compose(parent, index)
                depth -= 1
                return node

            def tag(kind: Any, value: Any, implicit: Any) -> str:
                if kind is not self._yaml.ScalarNode:
                    return _COLLECTION
                return _PLAIN if implicit[0] else _QUOTED

            # the loader's own methods have unbounded recursion, and tags that do not distinguish 4 from '4'
            loader.compose_node, loader.resolve = bounded, tag
            return loader.get_single_node()
        except self._yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f": line {mark.line + 1}"
            raise UsageError(
                f"{_shown(file)}{line}: not YAML: {printable(str(error.problem))}", code=Code.CONFIG_MALFORMED
            ) from None
        except (self._yaml.YAMLError, ValueError, OverflowError) as error:
            # PyYAML passes on the ValueError of chr() for an escape such as \UFFFFFFFF
            raise UsageError(
                f"{_shown(file)}: not YAML: {printable(' '.join(str(error).split()))}", code=Code.CONFIG_MALFORMED
            ) from None

    def _value(self, node: Any, at: _Place) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise UsageError(
                f"{at.where(node)}: more than {MAX_VALUES} values, including aliases; use fewer",
                code=Code.CONFIG_MALFORMED,
            )
        if at.depth > MAX_DEPTH:
            raise UsageError(f"{at.where(node)}: nested deeper than {MAX_DEPTH} levels", code=Code.CONFIG_MALFORMED)
        if node.tag == _INCLUDE:
            return self._included(node, at)
        if node.tag not in (_PLAIN, _QUOTED, _COLLECTION):
            raise UsageError(
                f"{at.where(node)}: {printable(node.tag)}: only the tag !include is supported; remove this one",
                code=Code.INCLUDE_REFUSED,
            )
        if isinstance(node, self._yaml.ScalarNode):
            return _scalar(node, at)
        if isinstance(node, self._yaml.SequenceNode):
            return [self._value(one, _Place(at.file, at.opened, at.depth + 1, at.as_text)) for one in node.value]
        return self._table(node, at)

    def _table(self, node: Any, at: _Place) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, self._yaml.ScalarNode) or key_node.tag not in (_PLAIN, _QUOTED):
                raise UsageError(f"{at.where(key_node)}: a key must be a string", code=Code.CONFIG_MALFORMED)
            key = _bounded(key_node, at)
            if key == "<<" and key_node.tag == _PLAIN:
                raise UsageError(
                    f"{at.where(key_node)}: merge keys (<<) are not supported; write the values out",
                    code=Code.CONFIG_MALFORMED,
                )
            if key in table:
                raise UsageError(
                    f"{at.where(key_node)}: key {_cut(key)} appears twice in one table", code=Code.CONFIG_MALFORMED
                )
            as_text = at.as_text or (at.depth == 0 and key in self._texts)
            table[key] = self._value(value_node, _Place(at.file, at.opened, at.depth + 1, as_text))
        return table

    def _included(self, node: Any, at: _Place) -> Any:
        if not isinstance(node, self._yaml.ScalarNode) or not node.value:
            raise UsageError(f"{at.where(node)}: !include needs a file name", code=Code.CONFIG_MALFORMED)
        file = Path(os.path.normpath(at.file.parent / _bounded(node, at)))
        return self.read(file, at, at.where(node))


def _scalar(node: Any, at: _Place) -> Any:
    text = _bounded(node, at)
    if node.tag == _QUOTED:
        return text
    if text in _NULLS:
        return None
    if at.as_text:
        return text
    if text in _FLAGS:
        return _FLAGS[text]
    if _NOT_FINITE.fullmatch(text):
        raise UsageError(f"{at.where(node)}: {text} is not a finite number", code=Code.CONFIG_MALFORMED)
    if not _NUMBER.fullmatch(text):
        return text
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise UsageError(
            f"{at.where(node)}: a number of {len(text)} characters is out of range", code=Code.CONFIG_MALFORMED
        )
    if _WHOLE.fullmatch(text):
        return int(text)
    if not math.isfinite(float(text)):
        raise UsageError(f"{at.where(node)}: the number {text} is too large", code=Code.CONFIG_MALFORMED)
    return float(text)


def _bounded(node: Any, at: _Place) -> str:
    text: str = node.value
    if len(text) > MAX_TEXT_CHARACTERS:
        raise UsageError(
            f"{at.where(node)}: a text of {len(text)} characters, more than {MAX_TEXT_CHARACTERS}",
            code=Code.CONFIG_MALFORMED,
        )
    if not _HALF_OF_A_PAIR.search(text):
        return text
    try:
        # JSON escapes some characters as two surrogates
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise UsageError(
            f"{at.where(node)}: a string has an unpaired surrogate, which is not a character",
            code=Code.CONFIG_MALFORMED,
        ) from None


def _shown(path: Path) -> str:
    return printable(str(path))


def _cut(text: str) -> str:
    return printable(repr(text if len(text) <= 80 else f"{text[:80]}..."))
