"""One shard of a run: the collected cases that belong to it, and the document that it writes for ``merge``.

A run can be divided only if all selected cases are known. xdist reports to its controller only the cases that a worker
keeps, so the workers write all selected cases to a file that the controller names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from invarlock.catalog.cases import Case
from invarlock.catalog.costs import ModelSize
from invarlock.catalog.shards import SCHEMA, divide_cases, shard_manifest
from invarlock.documents.catalog import EffectiveManifest
from invarlock.documents.runs import ModelSizeRow, ShardDocument
from invarlock.errors import UsageError
from invarlock.jsonio import check_schema, parse_json, write_json
from invarlock.problems import Code

Shard = tuple[int, int]


def own_cases(cases: Sequence[Case], shard: Shard) -> list[Case]:
    """Return the cases of a shard, in their order."""
    index, shards = shard
    groups = divide_cases(cases, shards)
    return [case for case in cases if groups[case.model.id, case.scenario.id] == index]


def shard_document(whole: EffectiveManifest, shard: Shard, cases: Sequence[Case]) -> ShardDocument:
    """Return ``state/shard.json``, which identifies the run and this part of it.

    Args:
        whole: the manifest of the whole run.
        shard: the number of this shard and the number of shards.
        cases: all cases of the run.
    """
    index, shards = shard
    models = {
        model: ModelSizeRow(parameters=size.parameters, weight_bytes=size.weight_bytes)
        for model, size in _sizes(cases).items()
    }
    document: ShardDocument = {"schema": SCHEMA, "index": index, "of": shards, "models": models, "whole": whole}
    check_schema(document, "shard", where="state/shard.json")
    return document


def manifest_of_shard(
    whole: EffectiveManifest, shard: Shard, cases: Sequence[Case], own: Sequence[Case]
) -> EffectiveManifest:
    """Return the effective manifest of a shard with the given cases.

    Args:
        whole: the manifest of the whole run.
        shard: the number of the shard and the number of shards.
        cases: all cases of the run.
        own: the selected cases of the shard.

    Raises:
        UsageError: when ``own`` are not all cases of the shard, or the shard has no cases.
    """
    manifest = shard_manifest(whole, _sizes(cases), *shard)
    planned = {(case["model"], case["scenario"], case["run"]) for case in manifest["selection"]["cases"]}
    if planned != {(case.model.id, case.scenario.id, case.run) for case in own}:
        raise UsageError(
            f"--shard {shard[0]}/{shard[1]}: {len(own)} of its {len(planned)} cases are selected; drop options "
            "that select by an earlier run (--lf, --sw)",
            code=Code.SELECTION_INVALID,
        )
    return manifest


def _sizes(cases: Sequence[Case]) -> dict[str, ModelSize]:
    return {case.model.id: ModelSize.of(case.model) for case in cases}


class Collected:
    """The file in which workers list the ids of all cases selected before the shard was chosen."""

    def __init__(self, path: Path | None = None) -> None:
        self._made = path is None
        if path is None:
            descriptor, name = tempfile.mkstemp(prefix="invarlock-collected-", suffix=".json")
            os.close(descriptor)
            path = Path(name)
        self.path = path

    def write(self, cases: Sequence[Case]) -> None:
        """Write the ids of all selected cases; called in a worker."""
        write_json(self.path, [case.id for case in cases])

    def read(self) -> list[str]:
        """Return the ids that a worker wrote; called in the controller."""
        ids: list[str] = parse_json(self.path.read_bytes(), where="cases that were collected")
        return ids

    def remove(self) -> None:
        """Remove the file if this process made it."""
        if self._made:
            self.path.unlink(missing_ok=True)
