"""Coverage of the BCa interval by simulation: how often it contains the true value, nominally 95 %.

python benchmarks/interval_coverage.py [--trials 2000] [--windows 8 16 32 64 200]

Simulated differences are normal, skewed, heavy-tailed, or larger in short windows. Real differences are those of an
edit of an embedded model on 900 windows, from which each trial draws with replacement. Windows have unequal numbers of
tokens. The true value is E[t * delta] / E[t], where t is the number of tokens of a window.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.catalog.models import read_models
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.evaluation.comparison import draw_runs
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.scoring import score_windows
from invarlock.evaluation.text import read_embedded_text
from invarlock.statistics.intervals import bca_interval

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Floats, npt.NDArray[np.int64]]]
LARGE = 2_000_000
SUITES = Path(__file__).parents[1] / "suites"
MODELS = ("embedded/mistral-tiny", "embedded/qwen2-tiny", "embedded/mixtral-tiny")
EDITS = ("quant_rtn:4:32:ffn", "magnitude_prune:0.3:all", "quant_rtn:2:32:all")
REAL_WINDOWS = 900
ALPHA, REPLICATES = 0.05, 1200
# Resamples are cached by seed, so few seeds make the trials fast. Each trial still draws new differences.
SEEDS = 16


def tokens(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    """Return random token counts of windows; a third of the windows are shorter than the rest."""
    return np.where(rng.random(count) < 1 / 3, rng.integers(16, 127, count), 127)


def normal(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    return rng.normal(0.01, 0.03, count), tokens(rng, count)


def skewed(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    return rng.gamma(1.5, 0.02, count) - 0.01, tokens(rng, count)


def heavy(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    return 0.01 + 0.02 * rng.standard_t(4, count), tokens(rng, count)


def short_windows_differ_more(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    weights = tokens(rng, count)
    return 0.01 + rng.normal(0.0, 0.03, count) * np.sqrt(127 / weights), weights


SHAPES: tuple[Draw, ...] = (normal, skewed, heavy, short_windows_differ_more)


def real() -> Iterator[tuple[str, Draw, float]]:
    """Yield, for each edit of each embedded model, its name, a function that draws differences, and the true value."""
    models = read_models(SUITES / "models.toml")
    text = models.suites["smoke"].text
    assert text is not None
    assert text.source is not None
    assert text.sha256 is not None
    source = read_embedded_text(SUITES / text.source, text.sha256)
    plan, placement = WindowPlan(text.seq_len, 1, REAL_WINDOWS, 0, 16), Placement("cpu")
    for model in map(models.models.__getitem__, MODELS):
        assert model.path is not None
        assert model.tokenizer_path is not None
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "baseline"
            make_snapshot(SUITES / model.path, SUITES / model.tokenizer_path, folder, model.revision)
            windows = draw_runs(folder, source, plan, [1])[1].final.tokens
            baseline = score_windows(load_model(folder, placement), windows, 16).losses
            for edit in EDITS:
                spec = parse_edit_spec(edit)
                assert isinstance(spec, EditSpec)
                apply_edits(folder, {Path(name) / "subject": spec})
                subject = score_windows(load_model(Path(name) / "subject", placement), windows, 16).losses
                shutil.rmtree(Path(name) / "subject")
                yield f"{model.id.partition('/')[2]} {edit}", *redrawn(np.array(subject) - np.array(baseline))


def redrawn(deltas: Floats) -> tuple[Draw, float]:
    """Return a function that draws from a population of differences (each with a fixed token count), and its mean."""
    weights = tokens(np.random.Generator(np.random.PCG64(1)), len(deltas))

    def draw(rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
        chosen = rng.integers(0, len(deltas), count)
        return deltas[chosen], weights[chosen]

    return draw, float((deltas * weights).sum() / weights.sum())


def expected(shape: Draw) -> float:
    """Return the true value of simulated differences, estimated to within 1/1000 of an interval's width."""
    deltas, weights = shape(np.random.Generator(np.random.PCG64(20261124)), LARGE)
    return float((deltas * weights).sum() / weights.sum())


def covered(shape: Draw, truth: float, windows: int, trials: int) -> int:
    """Return the number of trials in which the interval contains the true value."""
    rng = np.random.Generator(np.random.PCG64(20261125))
    hits = 0
    for trial in range(trials):
        deltas, weights = shape(rng, windows)
        interval = bca_interval(
            deltas.tolist(), weights.tolist(), replicates=REPLICATES, alpha=ALPHA, seed=trial % SEEDS
        )
        hits += interval.low <= truth <= interval.high
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--windows", type=int, nargs="+", default=[32, 64, 200])
    options = parser.parse_args()
    trials = options.trials
    print(f"{REPLICATES} replicates, {trials} trials, alpha {ALPHA}")
    print("| differences | windows | coverage | standard error |\n| --- | --- | --- | --- |")
    simulated = ((shape.__name__.replace("_", " "), shape, expected(shape)) for shape in SHAPES)
    for name, shape, truth in (*simulated, *real()):
        for windows in options.windows:
            share = covered(shape, truth, windows, trials) / trials
            print(f"| {name} | {windows} | {share:.3f} | {math.sqrt(share * (1 - share) / trials):.3f} |", flush=True)


if __name__ == "__main__":
    main()
