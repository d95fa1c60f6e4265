"""The differences between two verified packs: what each case required, and what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invarlock.folding import fold
from invarlock.pages.document import html_document
from invarlock.pages.markup import Markup, breakable, element, join
from invarlock.pages.numbers import change_text, share_text
from invarlock.pages.parts import code, counted, data_table, definition_list, pill

Case = tuple[str, str, int]
# The requirements of a case: a weaker plan, another policy or another preset may change a verdict.
REQUIREMENTS = (
    "category",
    "strictness",
    "intent",
    "edit_spec",
    "primary_guard",
    "primary_guard_required",
    "detectors_all_of",
    "detectors",
    "policy_digest",
    "preset_sha256",
)
# The measurements that are shown, in this order.
MEASURED = (
    "passed",
    "ratio_vs_baseline",
    "ratio_by_slice",
    "fidelity_kl_mean",
    "fidelity_kl_by_slice",
    "fidelity_same_top_share",
    "guard_flags",
    "invariants_status",
    "spectral_caps_applied",
    "reasons",
)
# Significant digits of numbers. The smallest count at which two values look different is used; 17 digits
# distinguish any two floats.
DIGITS = (4, 6, 9, 17)
# Shown above the cases.
HEADLINES = ("verdict", "counts")


def diff_verdicts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, object]:
    """Return the differences between two derived verdicts.

    ``verdicts`` has both verdicts; ``verdict`` and ``counts`` are there if they differ. ``cases`` has a row for each
    case whose requirements or measurements differ; ``only_in_first`` and ``only_in_second`` list the cases that the
    other pack lacks. Values are pairs ``[first, second]``.
    """
    ours, theirs = _records(first), _records(second)
    rows = []
    for case in sorted(ours.keys() & theirs.keys()):
        pairs = {key: [_compared(record[case], key) for record in (ours, theirs)] for key in (*REQUIREMENTS, *MEASURED)}
        changed = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        if changed:
            rows.append({"model": case[0], "scenario": case[1], "run": case[2], "changed": changed})
    return {
        "verdicts": [first["verdict"], second["verdict"]],
        **{key: [first[key], second[key]] for key in HEADLINES if first[key] != second[key]},
        "only_in_first": [_name(case) for case in sorted(ours.keys() - theirs.keys())],
        "only_in_second": [_name(case) for case in sorted(theirs.keys() - ours.keys())],
        "cases": rows,
        "cases_compared": len(ours.keys() & theirs.keys()),
    }


def render_diff(diff: Mapping[str, Any]) -> list[str]:
    """Return the differences as lines of text."""
    names = ("the first", "the second")
    signed = zip(names, diff.get("signed", (True, True)), strict=True)
    lines = [f"{name} pack is not signed (anybody could have made it)" for name, is_signed in signed if not is_signed]
    for name, key in (("verdict", "verdicts"), ("signer", "signers")):
        first, second = diff.get(key, (None, None))
        if None not in (first, second):
            lines.append(f"{name}: {first}, in both packs" if first == second else f"{name}: {first} -> {second}")
    for name, key in (("only in the first", "only_in_first"), ("only in the second", "only_in_second")):
        lines += fold([(case, name) for case in diff[key]], "cases")
    rows = []
    for row in diff["cases"]:
        changes = [f"{key} {' -> '.join(pair_text(old, new))}" for key, (old, new) in row["changed"].items()]
        rows.append((_name((row["model"], row["scenario"], row["run"])), "; ".join(changes)))
    lines += fold(rows, "cases", exact=True)
    compared, changed = diff["cases_compared"], len(diff["cases"])
    other = sum(any(key in REQUIREMENTS for key in row["changed"]) for row in diff["cases"])
    requirements = f", {other} with other requirements" if other else ""
    differ = "differs" if changed == 1 else "differ"
    return [*lines, f"{counted(compared, 'case')} compared, {changed} {differ}{requirements}"]


def render_diff_page(diff: Mapping[str, Any], names: tuple[str, str]) -> bytes:
    """Return the differences as an HTML page, styled like a pack's page; ``names`` are the names of the packs."""
    compared, changed = diff["cases_compared"], len(diff["cases"])
    unsigned = [name for name, is_signed in zip(names, diff.get("signed", (True, True)), strict=True) if not is_signed]
    signers = diff.get("signers", (None, None))
    body = join(
        (
            element(
                "header",
                element("p", "InvarLock comparison of two packs", class_="kind"),
                element("h1", f"{changed} of {compared} cases differ"),
                definition_list(
                    {
                        "first pack": names[0],
                        "second pack": names[1],
                        "verdict": join(verdict_pills(diff["verdicts"])),
                        "signer": code(signers[0]) if signers[0] == signers[1] else None,
                        "first signer": code(signers[0]) if signers[0] != signers[1] else None,
                        "second signer": code(signers[1]) if signers[0] != signers[1] else None,
                    }
                ),
                *(
                    element("p", f"{name} is not signed: anybody could have made it.", class_="box")
                    for name in unsigned
                ),
            ),
            element("main", *_only(diff), *_changes(diff["cases"])),
            element("footer", element("p", "Both packs verified when this page was made. It is not part of a pack.")),
        )
    )
    return html_document(f"{changed} of {compared} cases differ", body, is_wide=True)


def verdict_pills(verdicts: Sequence[str], of: str = "packs") -> tuple[Markup | str, ...]:
    """Return two verdicts as the content of an element; ``of`` is what has them."""
    kinds = {"PASS": "pass", "FAIL": "fail"}
    first, second = (pill(words, kinds.get(words, "note")) for words in verdicts)
    return (first, f" in both {of}") if verdicts[0] == verdicts[1] else (first, " → ", second)


def _only(diff: Mapping[str, Any]) -> Iterator[Markup]:
    for title, key in (("Only in the first pack", "only_in_first"), ("Only in the second pack", "only_in_second")):
        if diff[key]:
            yield element("h2", title)
            yield element("ul", *(element("li", case) for case in diff[key]))


def _changes(cases: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    """Yield the changes: requirements first, since they can change a verdict by themselves, then measurements."""
    for title, keys, about in (
        ("Other requirements", REQUIREMENTS, "A weaker plan, another policy or another preset may change a verdict."),
        ("Other results", MEASURED, ""),
    ):
        rows = [
            (
                breakable(row["scenario"]) + (f", run {row['run']}" if row["run"] > 1 else ""),
                row["model"],
                key.replace("_", " "),
                *shown_pair(key, *row["changed"][key]),
            )
            for row in cases
            for key in keys
            if key in row["changed"]
        ]
        yield element("h2", title)
        if rows and about:
            yield element("p", about, class_="soft")
        cells = [(Markup(scenario), *rest) for scenario, *rest in rows]
        yield data_table(("scenario", "model", "what", "first", "second"), cells, "none")


def shown_pair(key: str, old: Any, new: Any) -> tuple[object, object]:
    """Return two values of a measurement as the cells of a table; the same text is never shown for two values."""
    texts = pair_text(old, new)
    first, second = (_cell(key, value, text) for value, text in zip((old, new), texts, strict=True))
    return texts if first == second else (first, second)


def _cell(key: str, value: Any, text: str) -> object:
    if key.endswith("_by_slice") and not value:
        return "no slices"
    if key == "passed":
        return pill("as expected", "pass") if value else pill("not as expected", "fail")
    if key == "ratio_vs_baseline":
        return "no ratio" if value is None else f"{change_text(value)} perplexity"
    return share_text(value) if key == "fidelity_same_top_share" else text


def _records(verdict: Mapping[str, Any]) -> dict[Case, Mapping[str, Any]]:
    return {(record["model"], record["name"], record["run_num"]): record for record in verdict["records"]}


def _compared(record: Mapping[str, Any], key: str) -> Any:
    """Return a value of a record; for detectors this is their configuration, not their findings."""
    if key in ("detectors_all_of", "detectors"):
        wanted = [{name: value for name, value in row.items() if name not in ("seen", "hit")} for row in record[key]]
        return [", ".join(f"{name} {value}" for name, value in row.items()) for row in wanted]
    # only cases with several texts have values by slice
    return record.get(key, {}) if key.endswith("_by_slice") else record[key]


def _name(case: Case) -> str:
    return f"{case[0]} {case[1]} run {case[2]}"


def pair_text(old: Any, new: Any) -> tuple[str, str]:
    """Return two different values as text: numbers with four significant digits, more where they would look equal."""
    texts = ("", "")
    for digits in DIGITS:
        texts = (_value(old, digits), _value(new, digits))
        if texts[0] != texts[1]:
            break
    return texts


def _value(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, dict) and any(type(one) is float for one in value.values()):
        return ", ".join(f"{name} {_value(one, digits)}" for name, one in value.items())
    if isinstance(value, dict):
        raised = [key for key, flag in value.items() if flag]
        unknown = [key for key, flag in value.items() if flag is None]
        return (", ".join(raised) or "no guard") + (f" (not evaluated: {', '.join(unknown)})" if unknown else "")
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
