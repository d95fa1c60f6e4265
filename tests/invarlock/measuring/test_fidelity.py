"""The divergence of two models against an independent computation in float64, and its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from invarlock.errors import EvaluationError
from invarlock.evaluation import scoring
from invarlock.evaluation.kept_tokens import (
    SMALL_VOCABULARY,
    BaselineObserver,
    SubjectObserver,
    check_kept,
    most_probable_tokens,
)
from invarlock.evaluation.models import Placement, load_model
from invarlock.evaluation.scoring import score_blocks, score_windows
from invarlock.measuring.fidelity import LEAST, REST_FLOOR, Divergence, LogitScores, diverge, keep, rest_mass

CPU = Placement("cpu")
VOCABULARY = 64
TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, size=(7, 16)).astype(np.int32)
Exact = dict[str, torch.Tensor]


def compared(baseline: torch.Tensor, subject: torch.Tensor, top_k: int) -> Divergence:
    """Compare logits of shape (windows, positions, vocabulary); the token that follows is the first."""
    before, after = LogitScores.of(baseline), LogitScores.of(subject)
    return diverge(after, after.logprobs[..., 0], keep(before, before.logprobs[..., 0], top_k))


def exact_kl(baseline: torch.Tensor, subject: torch.Tensor) -> torch.Tensor:
    before, after = (side.double().log_softmax(-1) for side in (baseline, subject))
    return (before.exp() * (before - after)).sum(-1)


def noised(folder: Path, amount: float) -> Any:
    """Return a model of a folder whose weights are disturbed, and larger, so that logits spread."""
    model = load_model(folder, CPU)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator) * parameter.std())
    return model


def plain(folder: Path, baseline: Any, subject: Any) -> Exact:
    """Return what transformers and float64 give over the whole vocabulary, (windows, positions) each."""
    tokens = torch.from_numpy(TOKENS).long()
    with torch.inference_mode():
        p, q = (model(tokens).logits[:, :-1].double().log_softmax(-1) for model in (baseline, subject))
    following = tokens[:, 1:, None]
    return {
        "kl": (p.exp() * (p - q)).sum(-1),
        "same": p.argmax(-1) == q.argmax(-1),
        "confident": p.amax(-1) >= math.log(0.5),
        "delta_p": (q.gather(-1, following).exp() - p.gather(-1, following).exp())[..., 0],
    }


def observed(baseline: Any, subject: Any, path: Path, top_k: int, batch: int = 3) -> Any:
    """Return what reports say of both sides, measured in the passes that score them."""
    with BaselineObserver(path, positions=[15] * 7, top_k=top_k) as observer:
        score_windows(baseline, TOKENS, batch, observer=observer)
        before = observer.finish()
    seen = SubjectObserver(path, before["vocabulary"], [15] * 7)
    score_windows(subject, TOKENS, batch, observer=seen)
    return before, seen.finish()


def test_windows_of_two_lengths_measure_what_each_length_measures_alone(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model("llama")
    baseline, subject = noised(folder, 0.0), noised(folder, 0.05)
    blocks, names = (TOKENS[:4, :8], TOKENS[4:]), ["short"] * 4 + ["long"] * 3

    def measured(some: tuple[Any, ...], path: Path, slices: list[str]) -> tuple[Any, Any, Any, Any]:
        positions = [block.shape[1] - 1 for block in some for _ in block]
        with BaselineObserver(path, positions=positions, top_k=16) as observer:
            losses = score_blocks(baseline, some, 2, observer=observer).losses
            before = observer.finish()
        seen = SubjectObserver(path, before["vocabulary"], positions, slices)
        own = score_blocks(subject, some, 3, observer=seen).losses
        return losses, own, before, seen.finish()

    base, own, before, after = measured(blocks, tmp_path / "both.npy", names)
    alone = [measured((block,), tmp_path / f"{index}.npy", []) for index, block in enumerate(blocks)]

    assert base == pytest.approx([*alone[0][0], *alone[1][0]], rel=1e-6)
    assert own == pytest.approx([*alone[0][1], *alone[1][1]], rel=1e-6)
    assert before["confident"] == [*alone[0][2]["confident"], *alone[1][2]["confident"]]
    for key in ("kl_sum", "delta_p_squared"):
        assert after[key] == pytest.approx([*alone[0][3][key], *alone[1][3][key]], rel=1e-4, abs=1e-7)
    for key in ("same_top", "confident_same"):
        assert after[key] == [*alone[0][3][key], *alone[1][3][key]]
    assert sum(after["histogram"]["counts"]) == 4 * 7 + 3 * 15
    for name, (_, _, _, single) in zip(("short", "long"), alone, strict=True):
        assert after["slices"][name]["kl_max"] == pytest.approx(single["kl_max"], rel=1e-4)
        assert sum(after["slices"][name]["histogram"]["counts"]) == sum(single["histogram"]["counts"])


@pytest.mark.parametrize("architecture", ["llama", "mixtral", "gpt2", "gemma2"])
def test_all_tokens_kept_give_what_transformers_gives_in_float64(
    tiny_model: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    folder = tiny_model(architecture)
    sides = noised(folder, 0.0), noised(folder, 0.05)
    exact = plain(folder, *sides)

    before, after = observed(*sides, tmp_path / "kept.npy", VOCABULARY)

    assert (before["top_k"], before["vocabulary"]) == (VOCABULARY, VOCABULARY)
    assert before["rest_mass"] < 1e-6
    assert after["kl_sum"] == pytest.approx(exact["kl"].sum(1).tolist(), abs=15 * 1e-6)
    assert sum(after["kl_sum"]) / (7 * 15) == pytest.approx(float(exact["kl"].mean()), abs=1e-6)
    assert after["kl_max"] == pytest.approx(float(exact["kl"].max()), abs=1e-6)
    assert after["same_top"] == exact["same"].sum(1).tolist()
    assert before["confident"] == exact["confident"].sum(1).tolist()
    assert after["confident_same"] == (exact["same"] & exact["confident"]).sum(1).tolist()
    assert after["delta_p_squared"] == pytest.approx(exact["delta_p"].square().sum(1).tolist(), abs=1e-6)
    assert sum(after["kl_sum"]) > 0.01


def test_fewer_tokens_give_a_lower_bound_that_grows_to_the_whole(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model("llama")
    sides = noised(folder, 0.0), noised(folder, 0.05)
    exact = float(plain(folder, *sides)["kl"].sum())

    found = [
        sum(observed(*sides, tmp_path / f"{top_k}.npy", top_k)[1]["kl_sum"]) for top_k in (1, 4, 16, 48, VOCABULARY)
    ]

    assert found == sorted(found)
    assert found[0] < 0.9 * exact
    assert found[-1] == pytest.approx(exact, abs=1e-4)


def test_a_batch_a_chunk_and_a_second_try_do_not_matter(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("llama")
    sides = noised(folder, 0.0), noised(folder, 0.05)
    before, after = observed(*sides, tmp_path / "one.npy", 16, batch=7)

    class Starved(SubjectObserver):
        failed = False

        def observe(self, *arguments: Any) -> None:
            super().observe(*arguments)
            if not self.failed:
                self.failed = True
                raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scoring, "CACHED_LOGITS", VOCABULARY * 4)
    other = observed(*sides, tmp_path / "other.npy", 16, batch=2)
    starved = Starved(tmp_path / "one.npy", VOCABULARY, [15] * 7)
    score_windows(sides[1], TOKENS, 7, observer=starved)

    for found in (other[1], starved.finish()):
        assert found["kl_sum"] == pytest.approx(after["kl_sum"], rel=1e-3)
        assert found["same_top"] == after["same_top"]
    assert other[0]["confident"] == before["confident"]


@pytest.mark.parametrize("at_once", [1, 7, 30, 106])
@pytest.mark.parametrize("top_k", [16, 48])
def test_the_pieces_in_which_positions_are_compared_change_at_most_the_rounding(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_k: int, at_once: int
) -> None:
    folder = tiny_model("llama")
    sides = noised(folder, 0.0), noised(folder, 0.05)
    wanted = observed(*sides, tmp_path / "one.npy", top_k, batch=7)
    monkeypatch.setattr(scoring, "CACHED_LOGITS", VOCABULARY * at_once)

    found = observed(*sides, tmp_path / "other.npy", top_k, batch=7)

    # PyTorch's exp2 rounds differently at the end of a tensor than in its vectors
    for name in ("kl_sum", "kl_max", "delta_p_squared"):
        assert found[1].pop(name) == pytest.approx(wanted[1].pop(name), rel=1e-6)
    assert found == wanted
    assert (tmp_path / "other.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()


def test_a_model_against_itself_is_exactly_the_same(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = noised(tiny_model("llama"), 0.0)

    before, after = observed(model, model, tmp_path / "kept.npy", 16)

    assert after["kl_sum"] == [0.0] * 7
    assert after["kl_max"] == 0.0
    assert after["histogram"] == {"first": 0, "counts": [7 * 15]}
    assert after["same_top"] == [15] * 7
    assert after["confident_same"] == before["confident"]
    assert after["delta_p_squared"] == [0.0] * 7


def test_a_window_with_a_number_that_is_not_finite_has_none_and_the_others_stay(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model("llama", tied=False)
    sides = noised(folder, 0.0), noised(folder, 0.05)
    honest = observed(*sides, tmp_path / "kept.npy", 16, batch=7)[1]
    absent = next(token for token in range(3, VOCABULARY) if token not in TOKENS[0])
    with torch.no_grad():
        sides[1].get_input_embeddings().weight[absent] = math.nan

    found = observed(*sides, tmp_path / "kept.npy", 16, batch=7)[1]

    touched = [absent in row[:-1] for row in TOKENS]
    assert any(touched)
    for name in ("kl_sum", "same_top", "confident_same", "delta_p_squared"):
        assert [value is None for value in found[name]] == touched
    assert found["kl_sum"][0] == pytest.approx(honest["kl_sum"][0], rel=1e-3)
    assert sum(found["histogram"]["counts"]) == 15 * touched.count(False)


def test_a_subject_with_nothing_finite_has_no_histogram(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model, broken = noised(tiny_model("llama"), 0.0), noised(tiny_model("llama"), 0.0)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(math.nan)

    after = observed(model, broken, tmp_path / "kept.npy", 16)[1]

    assert after["kl_max"] is None
    assert after["histogram"] == {"first": 0, "counts": []}


def test_the_file_is_the_one_that_the_report_names(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "kept.npy"
    model = noised(tiny_model("llama"), 0.0)
    before, _ = observed(model, model, path, 4)

    check_kept(path, before)
    again, _ = observed(model, model, tmp_path / "again.npy", 4)
    assert again == before

    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(EvaluationError, match="not the file"):
        check_kept(path, before)
    with pytest.raises(EvaluationError, match="missing"):
        check_kept(tmp_path / "none.npy", before)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.npy", "kept.npy"]


def test_a_pass_that_fails_leaves_no_file(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = load_model(tiny_model("gpt2"), CPU)
    beyond = np.random.default_rng(0).integers(3, VOCABULARY, size=(2, 40)).astype(np.int32)

    with (
        pytest.raises(EvaluationError),
        BaselineObserver(tmp_path / "kept.npy", positions=[39] * 2, top_k=4) as observer,
    ):
        score_windows(model, beyond, 2, observer=observer)

    assert list(tmp_path.iterdir()) == []


LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=8, max_size=8)


@settings(max_examples=200)
@example([0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0, 0, 8], 1)
@given(LOGITS, LOGITS, st.integers(1, 8))
def test_a_divergence_is_at_least_0_and_at_most_that_of_all_tokens(
    one: list[float], other: list[float], top_k: int
) -> None:
    baseline, subject = (torch.tensor(side, dtype=torch.float32)[None, None] for side in (one, other))

    kl = float(compared(baseline, subject, top_k).kl)

    others = keep(LogitScores.of(baseline), torch.zeros(1, 1), 8).ids[..., top_k:]
    p, q = (float(side.double().softmax(-1).gather(-1, others).sum()) for side in (baseline, subject))
    # the mass of the others is one minus that of the kept ones, in float32
    rounding = p * math.log1p(4e-7 / max(q, REST_FLOOR))
    assert 0 <= kl <= float(exact_kl(baseline, subject)) * (1 + 1e-5) + 1e-5 + rounding


@given(LOGITS, st.permutations(range(8)))
def test_tokens_that_tie_for_the_top_are_all_the_top(one: list[float], order: list[int]) -> None:
    tied = torch.tensor(one)
    tied[[1, 4]] = 31.0
    swapped = tied.clone()
    swapped[1] -= 1.0

    for logits in (tied, swapped):
        assert bool(compared(tied[None, None], logits[None, None], 8).same_top)
    lower = tied.clone()
    lower[[1, 4]] = -40.0
    assert not bool(compared(tied[None, None], lower[None, None], 8).same_top)


def test_tokens_that_only_one_side_has_count() -> None:
    generator = torch.Generator().manual_seed(0)
    baseline = torch.randn(1, 5, 12, generator=generator)

    more = torch.cat([baseline, torch.full((1, 5, 4), 3.0)], dim=-1)
    fewer = baseline[..., :8]

    expected = -more.double().softmax(-1)[..., :12].sum(-1).log()

    assert compared(baseline, more, 12).kl[0].tolist() == pytest.approx(expected[0].tolist(), rel=1e-4)
    some = compared(baseline, more, 4).kl
    assert bool(((some > 0.1) & (some < expected)).all())
    assert bool((compared(baseline, fewer, 12).kl > 1.0).all())


def test_logits_that_rule_a_token_out_on_both_sides_are_no_difference() -> None:
    logits = torch.randn(1, 3, 10, generator=torch.Generator().manual_seed(0))
    logits[..., 7] = -math.inf

    found = compared(logits, logits, 10)

    assert found.kl.tolist() == [[0.0] * 3]
    assert bool(found.same_top.all())


@pytest.mark.parametrize("amount", [1.0, 1e-2, 1e-4])
def test_float32_gives_a_difference_of_any_size_as_float64_does(amount: float) -> None:
    generator = torch.Generator().manual_seed(0)
    baseline = 3 * torch.randn(2, 16, 512, generator=generator)
    subject = baseline + amount * torch.randn(baseline.shape, generator=generator)
    before, after = (LogitScores.of(side).logprobs.double() for side in (baseline, subject))
    wanted = (before.exp() * (before - after) - before.exp() + after.exp()).sum(-1)

    found = compared(baseline, subject, 512).kl

    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-8)
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("ruled_out", [-70.0, -90.0, -200.0, -math.inf])
def test_a_token_that_only_one_side_rules_out_has_its_weight(ruled_out: float) -> None:
    one, other = torch.tensor([[[0.0, ruled_out, -1.0]]]), torch.tensor([[[ruled_out, 0.0, -1.0]]])
    least = max(ruled_out, LEAST)
    rest = math.log1p(math.exp(-1.0))

    for baseline, subject in ((one, other), (other, one)):
        found = float(compared(baseline, subject, 3).kl)
        assert found == pytest.approx(math.exp(-rest) * (-rest - max(least - rest, LEAST)), rel=1e-6)


@pytest.mark.parametrize("ruled_out", [-200.0, -math.inf])
def test_a_nan_at_one_position_does_not_spoil_the_others(ruled_out: float) -> None:
    baseline = torch.tensor([[[0.0, ruled_out, -1.0]] * 2])
    subject = torch.tensor([[[ruled_out, 0.0, -1.0], [math.nan] * 3]])

    for before, after in ((baseline, subject), (subject[:, :1].repeat(1, 2, 1), baseline)):
        after = torch.stack([after[:, 0], subject[:, 1]], dim=1)
        found = compared(before, after, 3).kl[0]
        assert float(found[0]) == float(compared(before[:, :1], after[:, :1], 3).kl)
        assert math.isfinite(found[0])
        assert math.isnan(found[1])


def test_the_rest_is_what_was_not_kept() -> None:
    logits = torch.randn(1, 3, 10, generator=torch.Generator().manual_seed(0))
    scores = LogitScores.of(logits)
    kept = keep(scores, scores.logprobs[..., 0], 4)

    ordered = logits.double().softmax(-1).sort(dim=-1, descending=True).values

    assert rest_mass(kept)[0].tolist() == pytest.approx(ordered[0, :, 4:].sum(-1).tolist(), abs=1e-6)


def test_transformers_has_no_part_in_the_interface() -> None:
    class Answers:
        """An engine that has no logits, as a server has none."""

        vocabulary = 3

        def __init__(self, probabilities: list[float]) -> None:
            self._logprobs = torch.tensor(probabilities).log()[None, None]

        def of_tokens(self, ids: torch.Tensor) -> torch.Tensor:
            return self._logprobs.gather(-1, ids)

        def known(self, ids: torch.Tensor) -> None:
            return None

        def most_probable(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            found = self._logprobs.sort(dim=-1, descending=True)
            return found.values[..., :count], found.indices[..., :count]

        def largest(self) -> torch.Tensor:
            return self._logprobs.amax(-1)

    before, after = torch.tensor([[0.25]]).log(), torch.tensor([[0.5]]).log()
    found = diverge(Answers([0.25, 0.25, 0.5]), after, keep(Answers([0.5, 0.25, 0.25]), before, 3))

    assert float(found.kl) == pytest.approx(0.25 * math.log(2), abs=1e-6)
    assert not bool(found.same_top)
    assert float(found.delta_p) == pytest.approx(0.25)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_an_engine_that_gives_a_part_of_the_tokens_bounds_the_divergence_from_below(
    seed: int, given_tokens: int
) -> None:
    class Part(LogitScores):
        """An engine that gives its most probable tokens alone."""

        def known(self, ids: torch.Tensor) -> torch.Tensor | None:
            least = self.logprobs.topk(given_tokens, dim=-1).values[..., -1:]
            return self.of_tokens(ids) >= least

    generator = torch.Generator().manual_seed(seed)
    before, after = (2 * torch.randn(1, 4, 8, generator=generator) for _ in range(2))
    own = LogitScores.of(before)
    kept = keep(own, own.logprobs[..., 0], 8)

    whole = diverge(LogitScores.of(after), kept.target, kept)
    part = diverge(Part.of(after), kept.target, kept)

    assert part.uncompared is not None
    # the rest is one minus the others, in float32
    assert bool((part.kl <= whole.kl + 1e-3 * (1 + whole.kl)).all())
    assert bool(torch.equal(part.same_top, whole.same_top))
    known = Part.of(after).known(kept.ids)
    assert known is not None
    hidden = ~known
    wanted = (kept.logprobs.double().exp() * hidden).sum(-1)
    torch.testing.assert_close(part.uncompared, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("vocabulary", [SMALL_VOCABULARY, SMALL_VOCABULARY + 1])
def test_the_last_token_of_a_vocabulary_is_kept_whatever_bytes_an_id_takes(tmp_path: Path, vocabulary: int) -> None:
    scores = LogitScores.of(torch.linspace(-1, 1, vocabulary).expand(1, 3, -1))
    path, following = tmp_path / "kept.npy", scores.logprobs[..., 0]
    with BaselineObserver(path, positions=[3], top_k=4) as observer:
        observer.observe((0, 1), (0, 3), scores, following)
        observer.finish()
    seen = SubjectObserver(path, vocabulary, [3])
    seen.observe((0, 1), (0, 3), scores, following)

    assert most_probable_tokens(path).tolist() == [vocabulary - 1] * 3
    assert seen.finish()["same_top"] == [3]


def test_a_token_that_the_subject_alone_rules_out_makes_a_large_divergence_that_is_finite() -> None:
    subject = torch.zeros(1, 2, 4)
    subject[0, 0, 1] = -math.inf

    kl = compared(torch.zeros(1, 2, 4), subject, 4).kl

    assert 1e4 < float(kl[0, 0]) < 1e5
    assert float(kl[0, 1]) == 0
