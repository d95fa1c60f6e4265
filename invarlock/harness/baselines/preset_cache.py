"""The preset cache: a folder of null runs that several runs share.

The name of a file is the digest of everything that its null run was measured from: the baseline's weights and
tokenizer, the text and its windows, the tier and the profile, the device, the versions of the libraries, and how each
guard measures. So a run finds only null runs that it would measure itself.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from invarlock.errors import InvarLockError
from invarlock.evaluation.measurements import KnownBaseline
from invarlock.evaluation.request import Setup
from invarlock.harness.baselines.resuming import kept_null_run, null_run_inputs
from invarlock.jsonio import digest_document, read_file, write_bytes

# The parts of a run's context that change what a null run measures.
IN_CONTEXT = ("tier", "profile", "determinism")


class PresetCache:
    """A preset cache; its folder may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, path: Path, setup: Setup, run: int, baseline: KnownBaseline) -> bool:
        """Copy a null run from the cache, and return whether it was there.

        A damaged file of the cache ends up in the run directory as ``*.stale``, and the next ``add`` replaces it.

        Args:
            path: the null run's path in the run directory.
            setup: the setup of the model.
            run: the number of the null run.
            baseline: the baseline's digests.
        """
        try:
            write_bytes(path, read_file(self._entry(setup, run, baseline)))
        except InvarLockError:
            return False
        return kept_null_run(path, setup, run, baseline) is not None

    def add(self, path: Path, setup: Setup, run: int, baseline: KnownBaseline) -> None:
        """Copy a null run into the cache; if that fails, the run goes on without it."""
        with suppress(OSError):
            write_bytes(self._entry(setup, run, baseline), read_file(path))

    def _entry(self, setup: Setup, run: int, baseline: KnownBaseline) -> Path:
        inputs = {
            **null_run_inputs(setup, run, baseline),
            "context": {name: setup.context[name] for name in IN_CONTEXT},
            "scoring": setup.placement.scoring,
            "top_k": setup.plan.top_k,
        }
        return self._folder / f"{digest_document(inputs).removeprefix('sha256:')}.json"
