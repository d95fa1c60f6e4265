"""The metrics: one module per metric, judging without PyTorch how a subject's outputs differ from the baseline's."""

from __future__ import annotations

from invarlock.metrics.fidelity import FIDELITY
from invarlock.metrics.metric import Metric
from invarlock.metrics.perplexity import PERPLEXITY
from invarlock.metrics.tail import TAIL
from invarlock.metrics.tasks import TASKS

# In the order of judging and display; the first is the primary metric. A new metric is one module and one line here.
METRICS: tuple[Metric, ...] = (
    PERPLEXITY,
    TAIL,
    FIDELITY,
    TASKS,
)
