"""The import of PyTorch and transformers, as a stage of its own that costs as little as it can.

Both create hundreds of thousands of objects that live as long as the process. The garbage collector would examine them
again and again, during the imports and in every full collection after them, and never find anything to free.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from invarlock.stages import stage


@contextmanager
def loading_pytorch() -> Iterator[None]:
    """Announce the stage, and import without the garbage collector, which ignores what there is from then on.

    Example::

        with loading_pytorch():
            from invarlock.evaluation.pair import evaluate_pair

    The collector is left as it is if PyTorch is there already, or if the caller has switched the collector off.
    """
    paused = gc.isenabled() and "torch" not in sys.modules
    with stage("loading PyTorch"):
        if paused:
            gc.disable()
        try:
            yield
            if paused:
                gc.freeze()
        finally:
            if paused:
                gc.enable()
