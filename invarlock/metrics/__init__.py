"""The metrics: one module a metric, which judges without PyTorch how a subject's outputs differ from its baseline's."""

from __future__ import annotations

from invarlock.metrics.metric import Metric
from invarlock.metrics.perplexity import PERPLEXITY
from invarlock.metrics.tail import TAIL
from invarlock.metrics.tasks import TASKS

# In the order in which they are judged and shown; the first is the primary metric. A new metric is a module and a line.
METRICS: tuple[Metric, ...] = (
    PERPLEXITY,
    TAIL,
    TASKS,
)
