"""Records of a task with 1,000 samples, of which the subject gets fewer right than the baseline."""

from __future__ import annotations

from typing import Any

SAMPLES = 1000


def made_records(lost: int) -> dict[str, Any]:
    """Return records in which the baseline has 800 correct answers, and the subject ``lost`` fewer."""
    source = [{"name": "log.eval", "sha256": f"sha256:{'0' * 64}"}]
    scores = {"baseline": [1] * 800 + [0] * 200, "subject": [1] * (800 - lost) + [0] * (200 + lost)}
    return {
        "format": "task-records-v1",
        "tool": "inspect-ai",
        "sources": {"baseline": source, "subject": source},
        "tasks": [
            {
                "task": "sevens",
                "metric": "includes",
                "samples": [str(number) for number in range(SAMPLES)],
                "targets": ["0" * 16] * SAMPLES,
                "prompts": [f"{number:016x}" for number in range(SAMPLES)],
                **{
                    side: {"scores": [float(score) for score in own], "correct": [score == 1 for score in own]}
                    for side, own in scores.items()
                },
            }
        ],
    }
