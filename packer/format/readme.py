"""The ``README.md`` of a pack: what it is, what it claims, and how to check it independently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invarlock.packer.format.layout import PAIR_SUITE

from invarlock.reports.markdown import code_span, inline
from invarlock.verdict.rendering import headline
from invarlock.verdict.words import expected_words

TEXT = """# Evidence pack

This folder holds the evidence of {what}, their provenance, and checksums of all files{signed}. It contains no weights.

- {verdict} ({passed} of {cases} cases as expected, suite {suite}, {models})
{evidence}
- Made: {generated_at} by InvarLock {version}
- Signer: {signer}
{page}{scenarios}
## Check it

Install the core of InvarLock {version}, from a source that you trust, and in this folder:

```
python -m invarlock.packer verify . --strict --report-assurance report
sha256sum -c checksums.sha256
```

The first command needs no network and no PyTorch. It checks the signature over `manifest.json`, every checksum, and
that every derived number, every summary and the verdict follow from the raw measurements in `reports/` and
`baselines/`. It prints the signer's fingerprint: compare it with the one that the maker published, or pass it as
`--expected-fingerprint`.

{meaning}
"""
RUN = (
    "one validation run of InvarLock: the reports of every case, the verdict compiled from\nthem",
    "PASS means that harmless edits stayed within the limits of `resolved_policy` in each report, that destructive "
    "edits did\nnot, and that every deliberate fault was detected, on the models and the text in the reports. It says "
    "nothing about\nother models, other edits or other text.",
)
# ``invarlock evaluate`` compares one checkpoint, and shows nothing about destructive edits and faults.
COMPARISON = (
    "one comparison by InvarLock: the reports of a checkpoint and of its baseline, the\nverdict",
    "PASS means that the checkpoint stayed within the limits of `resolved_policy` in its report, on the text in the "
    "report. It\nsays nothing about other text, and no broken checkpoint was measured to show that these limits find "
    "one.",
)


SCENARIOS_HEADING = """
## What was tried

| scenario | edit or fault | expected | as expected |
| --- | --- | --- | --- |
"""
# A pack may hold ten thousand cases; cases beyond this number are only in their reports.
MAX_ROWS = 200

# The maker's notes follow this line; they are not checked.
NOTES_HEADING = """
## From the maker

The following text is by the maker of the pack. It is not checked.

"""


def render_readme(
    manifest: Mapping[str, Any],
    verdict: Mapping[str, Any],
    evidence: Sequence[str],
    notes: str = "",
    *,
    has_page: bool = False,
) -> bytes:
    """Return the README of a pack; the verifier renders it again and compares everything except the maker's notes.

    ``evidence`` states what the pack covers and whether it is strong evidence; ``has_page`` says whether the pack has
    an ``index.html``.
    """
    counts = verdict["counts"]
    what, meaning = COMPARISON if manifest.get("suite") == PAIR_SUITE else RUN
    signer = manifest.get("signing_key_fingerprint")
    text = TEXT.format(
        what=what,
        meaning=meaning,
        signed=", signed" if signer else "",
        verdict=_verdict(verdict),
        passed=counts["records_passed"],
        cases=counts["cases_total"],
        suite=code_span(manifest.get("suite", "not stated")),
        models=f"{counts['models_total']} model" + ("s" if counts["models_total"] != 1 else ""),
        evidence="\n".join(f"- {line[0].upper()}{line[1:]}" for line in evidence),
        generated_at=inline(manifest.get("generated_at", "at a time not stated")),
        version=inline(manifest.get("invarlock_version", "of a version not stated")),
        scenarios=_scenarios(verdict),
        page="- Overview: open `index.html` in a browser; `verify` renders it again and compares it\n"
        if has_page
        else "",
        signer=code_span(signer) if signer else "named in `manifest.signature.json`, if that file is there",
    )
    return (text + (NOTES_HEADING + notes if notes else "")).encode("utf-8")


def _scenarios(verdict: Mapping[str, Any]) -> str:
    """Return a table of scenarios and applied edits with the number of cases that were as expected."""
    missing = verdict.get("missing", {}).get("cases", [])
    counts: dict[tuple[str, str, str], list[int]] = {}
    for row in (*verdict.get("records", ()), *missing):
        count = counts.setdefault((row["name"], row["edit_spec"], row["strictness"]), [0, 0])
        count[0] += bool(row.get("passed"))
        count[1] += 1
    lines = [
        f"| {_cell(name)} | {_cell(edit)} | {_cell(expected_words(strictness))} | {passed} of {total} |"
        for (name, edit, strictness), (passed, total) in counts.items()
    ]
    if not lines:
        return ""
    more = [f"\nand {len(lines) - MAX_ROWS} more rows, as `results/final_verdict.txt` has them."]
    return SCENARIOS_HEADING + "\n".join(lines[:MAX_ROWS] + (more if len(lines) > MAX_ROWS else [])) + "\n"


def _cell(value: str) -> str:
    """Return a value escaped for a Markdown table cell."""
    return code_span(value.replace("|", "/"))


def _verdict(verdict: Mapping[str, Any]) -> str:
    if "not_bundled" in verdict:
        said = headline(verdict)
        return f"**{said[0].upper()}{said[1:]}**"
    return f"Verdict: **{inline(verdict['verdict'])}**"


def readme_follows(
    readme: bytes,
    manifest: Mapping[str, Any],
    verdict: Mapping[str, Any],
    evidence: Sequence[str],
    *,
    has_page: bool = False,
) -> bool:
    """Return whether a README matches a manifest, a verdict and a statement, ignoring the maker's notes."""
    rendered = render_readme(manifest, verdict, evidence, has_page=has_page)
    return readme == rendered or readme.startswith(rendered + NOTES_HEADING.encode("utf-8"))
