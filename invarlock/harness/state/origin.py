"""The code that a run began with: a checkout may change while the run is in progress, or before it is resumed.

The first session of a run writes ``state/origin.json``. At the end, the pack names this code. If another commit or
other code is there by then, the pack says that the code had uncommitted changes, since no commit describes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from invarlock.documents.provenance import Environment, Product, SourceRepository
from invarlock.errors import DocumentError
from invarlock.harness.state.run import Run
from invarlock.jsonio import read_json, write_json
from invarlock.runtime.provenance import product, source_of

NAME = "origin.json"


def record_origin(run: Run) -> None:
    """Write the source of the suites folder and the product's code, unless an earlier session of the run did."""
    path = run.directory.state / NAME
    if path.is_file():
        return
    source = None
    # a run without a pack needs no source, and the checks before a run with one refuse a malformed marker file
    with suppress(DocumentError):
        source = source_of(run.suites_folder)
    write_json(path, {"source": source, "product": product()})


def with_origin(
    run: Run, environment: Environment, source: SourceRepository
) -> tuple[Environment, SourceRepository, tuple[str, ...]]:
    """Return the environment and the source with the code that the run began with, and a line if it changed.

    Args:
        run: a run at its end; a piece of a fleet's run states what its node has.
        environment: the environment at the end.
        source: the source of the suites folder at the end.

    Raises:
        DocumentError: if ``state/origin.json`` is not as a run writes it.
    """
    path = run.directory.state / NAME
    if run.settings.piece is not None or not path.is_file():
        return environment, source, ()
    began, now = read_json(path), product()
    try:
        own = began["product"]
        first: Product = {**now, "code": own["code"], "commit": own["commit"], "dirty": own["dirty"]}
        # a run that was begun with --no-pack may not have known its source
        first_source: SourceRepository = {**source, **(began["source"] or {})}
    except (KeyError, TypeError):
        raise DocumentError("not as a run writes it; start a new run", where=str(path)) from None
    if _code(first) == _code(now) and _code(first_source) == _code(source):
        return environment, source, ()
    changed: Product = {**environment["product"], "code": first["code"], "commit": first["commit"], "dirty": True}
    line = (
        f"the code changed while the run was in progress: {_words(first_source, first)} at the beginning, "
        f"{_words(source, now)} now; the pack names the first, with uncommitted changes"
    )
    return {**environment, "product": changed}, {**first_source, "dirty": True}, (line,)


def _code(document: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(document.get(field) for field in ("commit", "dirty", "code"))


def _words(source: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    changes = " with changes" if source["dirty"] or own["dirty"] else ""
    return f"commit {source['commit'][:12]}{changes}, code {own['code'].removeprefix('sha256:')[:12]}"
