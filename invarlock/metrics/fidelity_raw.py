"""Finds contradictions between the sums, counts and histogram in the raw part of the metric ``fidelity``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invarlock.judgement.learning import NullChange
from invarlock.judgement.slices import chosen, names, places
from invarlock.problems import Code, Problem
from invarlock.statistics.histogram import BINS, lower_edge, upper_edge

Block = Mapping[str, Any]

# Sums and the largest value have nine digits, and edges of bins depend on the C library.
TOLERANCE = 1e-6
# The largest divergence between two passes of one model, in nats per token: for bfloat16 on a GPU, with a margin.
SAME_MODEL_NATS = 0.05
# The largest float32 error of a divergence of zero, per position.
ROUNDING = 1e-5


def raw_problems(report: Block) -> Iterator[Problem]:
    """Yield the contradictions within the raw part of a report."""
    yield from _side_problems("fidelity.raw", report["fidelity"]["raw"], report["evaluation_windows"]["final"])


def _side_problems(where: str, raw: Block, final: Block) -> Iterator[Problem]:
    """Yield the contradictions within a raw part, over all windows or in a slice."""
    found = list(part_problems(where, raw, final["token_counts"]))
    if not found and len(final.get("slices", final["token_counts"])) == len(final["token_counts"]):
        found += _slice_problems(where, raw, final)
    yield from found


def raw_of_slice(raw: Block, name: str, wanted: Sequence[int]) -> dict[str, Any]:
    """Return the raw part of one slice, given the numbers of its windows."""
    baseline, subject = raw["baseline"], raw["subject"]
    own = {
        key: chosen(values, wanted) if isinstance(values, list) else values
        for key, values in (subject or {}).items()
        if key != "slices"
    }
    return {
        "baseline": {**baseline, "confident": chosen(baseline["confident"], wanted)},
        "subject": None if subject is None else {**own, **subject["slices"][name]},
    }


def _slice_problems(place: str, raw: Block, final: Block) -> Iterator[Problem]:
    """Yield the contradictions between the numbers of the slices and those of all windows."""
    where, subject, slices = f"{place}.subject", raw["subject"], names(final)
    if subject is None:
        return
    rows = subject.get("slices", {})
    if rows.keys() != set(slices):
        yield _contradiction(f"{where}.slices", f"{', '.join(rows) or 'none'}; windows are of {', '.join(slices)}")
        return
    found: list[Problem] = []
    for name in slices:
        wanted = places(final, name)
        own = raw_of_slice(raw, name, wanted)
        found += part_problems(f"{place}.slices.{name}", own, chosen(final["token_counts"], wanted))
    yield from found
    if found or not slices:
        return
    if _bins(subject) != sum((_bins(row) for row in rows.values()), Counter()):
        yield _contradiction(f"{where}.slices", "their histograms together are not that of all windows")
    if subject["kl_max"] != max((row["kl_max"] for row in rows.values() if row["kl_max"] is not None), default=None):
        yield _contradiction(f"{where}.slices", "the largest of their values is not that of all windows")


def _bins(row: Block) -> Counter[int]:
    first = row["histogram"]["first"]
    return Counter({first + place: count for place, count in enumerate(row["histogram"]["counts"]) if count})


def consistency_problems(report: Block) -> Iterator[Problem]:
    """Yield the contradictions between the raw part and other measurements of the report."""
    where, subject = "fidelity.raw", report["fidelity"]["raw"]["subject"]
    if (subject is None) != (report["scoring"]["not_scored"] is not None):
        yield _contradiction(f"{where}.subject", "it is there exactly where the subject was scored")
        return
    if subject is None:
        return
    if ("compared" in subject) != ("served" in report["subject"]):
        yield _contradiction(f"{where}.subject.compared", "it is there exactly where the subject is served")
        return
    if "compared" in subject:
        yield from _compared_problems(f"{where}.subject.compared", report)
    final = report["evaluation_windows"]["final"]
    # a window without a finite loss has no divergence either
    if subject["kl_max"] == 0 and any(
        (own is None) != (total is None) or (own is not None and (base is None or abs(own - base) > ROUNDING))
        for own, base, total in zip(final["logloss"], final["baseline_logloss"], subject["kl_sum"], strict=False)
    ):
        yield _contradiction(f"{where}.subject.kl_max", "no divergence, and other losses than the baseline's")
    if report["subject"]["digest"] != report["baseline_ref"]["digest"]:
        return
    tolerance = 0.0 if report["context"]["determinism"] == "strict" else SAME_MODEL_NATS
    pairs = zip(subject["kl_sum"], report["evaluation_windows"]["final"]["token_counts"], strict=False)
    if any(total is None or total > tolerance * count for total, count in pairs):
        yield _contradiction(f"{where}.subject.kl_sum", "a divergence, though the checkpoints have one digest")


def _compared_problems(where: str, report: Block) -> Iterator[Problem]:
    """Yield contradictions between the compared tokens and the tokens that the server gave or the baseline kept."""
    raw = report["fidelity"]["raw"]
    compared = raw["subject"]["compared"]
    if compared["top_k"] != report["subject"]["served"]["top_k"]:
        yield _contradiction(f"{where}.top_k", "not the number of tokens that the server gave")
    if compared["rest_mass"] < raw["baseline"]["rest_mass"] - ROUNDING:
        yield _contradiction(f"{where}.rest_mass", "less than the probability of the tokens that were not even kept")


def null_problems(change: NullChange) -> Iterator[Problem]:
    """Yield the contradictions within the raw part of a change of a null run."""
    yield from _side_problems(f"{change.change['name']}.fidelity", change.pair("fidelity"), change.windows["final"])


def part_problems(where: str, raw: Block, token_counts: Sequence[int]) -> Iterator[Problem]:
    """Yield the contradictions between the numbers of baseline and subject.

    Args:
        where: the place of the raw part.
        raw: ``baseline`` and ``subject``; None for a subject that was not scored.
        token_counts: the predicted positions of each final window.
    """
    baseline, subject = raw["baseline"], raw["subject"]
    if baseline["top_k"] > baseline["vocabulary"]:
        yield _contradiction(f"{where}.baseline.top_k", "more tokens than the vocabulary has")
    if baseline["top_k"] == baseline["vocabulary"] and baseline["rest_mass"] > ROUNDING:
        yield _contradiction(f"{where}.baseline.rest_mass", "of none: all tokens were kept")
    lists = {"baseline.confident": baseline["confident"]}
    if subject is not None:
        lists |= {f"subject.{name}": values for name, values in subject.items() if isinstance(values, list)}
    short = [name for name, values in lists.items() if len(values) != len(token_counts)]
    for name in short:
        yield _contradiction(f"{where}.{name}", "not a number for each final window")
    if short:
        return
    for index, (confident, count) in enumerate(zip(baseline["confident"], token_counts, strict=True)):
        if confident > count:
            yield _contradiction(f"{where}.baseline.confident[{index}]", "more than the window's positions")
    if subject is not None:
        yield from _subject_problems(f"{where}.subject", baseline, subject, token_counts)


def _subject_problems(where: str, baseline: Block, subject: Block, token_counts: Sequence[int]) -> Iterator[Problem]:
    positions = 0
    rows = zip(*(subject[name] for name in ("kl_sum", "same_top", "confident_same", "delta_p_squared")), strict=True)
    for index, (row, confident, count) in enumerate(zip(rows, baseline["confident"], token_counts, strict=True)):
        missing = sum(value is None for value in row)
        if missing:
            if missing < len(row):
                yield _contradiction(f"{where}.kl_sum[{index}]", "a window has all of its numbers, or none")
            continue
        positions += count
        yield from _window_problems(where, index, row, (baseline, confident, count))
    histogram, largest = subject["histogram"], subject["kl_max"]
    first, counts = histogram["first"], histogram["counts"]
    if sum(counts) != positions:
        yield _contradiction(f"{where}.histogram.counts", f"{sum(counts)} positions, the windows have {positions}")
        return
    ends = (counts[0], counts[-1]) if counts else (first == 0,)
    if first + len(counts) > BINS or not all(ends):
        yield _contradiction(f"{where}.histogram.first", "not from the first bin that has a value to the last")
        return
    if (largest is None) != (not counts):
        yield _contradiction(f"{where}.kl_max", "it is there exactly where a window has numbers")
        return
    if largest is None:
        return
    yield from _histogram_problems(where, subject, first + len(counts) - 1, token_counts)


def _window_problems(
    where: str, index: int, row: tuple[float, int, int, float], known: tuple[Block, int, int]
) -> Iterator[Problem]:
    """Yield the impossible numbers of a window: too many positions, or changes of probability that are too large.

    By Pinsker's inequality, the probability of a token that is an outcome of its own changes by at most sqrt(KL / 2).
    The probability of any other token changes by at most that plus the total probability of the other tokens.
    """
    kl, same, confident_same, squared = row
    baseline, confident, count = known
    if same > count:
        yield _contradiction(f"{where}.same_top[{index}]", "more than the window's positions")
    if not max(0, same + confident - count) <= confident_same <= min(same, confident):
        yield _contradiction(f"{where}.confident_same[{index}]", "not among the same and the confident positions")
    whole = baseline["top_k"] == baseline["vocabulary"]
    room = kl / 2 if whole else kl + 2 * count
    if squared > min(room, count) * (1 + TOLERANCE) + count * ROUNDING:
        yield _contradiction(f"{where}.delta_p_squared[{index}]", "more than the divergence allows")


def _histogram_problems(where: str, subject: Block, last: int, token_counts: Sequence[int]) -> Iterator[Problem]:
    """Yield the sums of the windows that cannot be sums of the values in the histogram's bins."""
    histogram, largest = subject["histogram"], subject["kl_max"]
    if not lower_edge(last) * (1 - TOLERANCE) <= largest <= upper_edge(last) * (1 + TOLERANCE):
        yield _contradiction(f"{where}.kl_max", "not in the last bin of the histogram")
        return
    sums = [(index, value) for index, value in enumerate(subject["kl_sum"]) if value is not None]
    for index, value in sums:
        if value > token_counts[index] * largest * (1 + TOLERANCE):
            yield _contradiction(f"{where}.kl_sum[{index}]", "more than so many times the largest value")
    total = math.fsum(value for _, value in sums)
    bins = [(histogram["first"] + place, count) for place, count in enumerate(histogram["counts"])]
    # at least one value of the last bin is the largest value
    least = math.fsum(lower_edge(number) * count for number, count in bins) - lower_edge(last) + largest
    most = math.fsum(min(upper_edge(number), largest) * count for number, count in bins)
    if not least * (1 - TOLERANCE) <= total <= most * (1 + TOLERANCE):
        yield _contradiction(f"{where}.kl_sum", f"together {total:.6g}, the histogram has {least:.6g} to {most:.6g}")
    if max((value for _, value in sums), default=0.0) < largest * (1 - TOLERANCE):
        yield _contradiction(f"{where}.kl_max", "more than the sum of any window")


def _contradiction(field: str, message: str) -> Problem:
    return Problem(Code.RAW_MEASUREMENTS_CONTRADICT, "", field, message)
