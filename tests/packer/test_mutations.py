"""Changes one leaf of one JSON file, updates every digest that depends on it, and signs the pack again.

Such a change to a derived field must be detected. The only fields that may change undetected are raw, and listed here
with the reason why they have no effect.
"""

import json
import random
import re
import shutil
from collections import defaultdict
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import pytest
from invarlock.packer.trust.keys import SigningKey
from packs import FAULT, Path_, change, forge, leaves, pack_files, put, seal, strict

from invarlock.jsonio import dump_json, write_json

pytestmark = pytest.mark.slow

EACH_FIELD = 1
EACH_RAW = 10
SEED = 20261124
# Number of parts into which the work is divided among workers.
PARTS = 12
REPORTS = "reports/*/evaluation.report.json"

# Maps (file, field) to the reason why nothing is derived from it. A star stands for a list index or a module's name.
FREE = {
    ("metadata/environment.json", "*"): "what the maker's machine was, beyond the libraries that reports name",
    ("metadata/pytest_report.json", "tests.*.message"): "pytest's own words",
    ("metadata/pytest_report.json", "tests.*.seconds"): "time",
    ("metadata/scenarios.json", "scenarios.*.generation.edit_spec"): "replaced by the spec of the model",
    ("metadata/scenarios.json", "scenarios.*.generation.edit_spec_by_model.*"): "of a model that is not in the pack",
    ("metadata/scenarios.json", "scenarios.*.generation.version"): "a version that its author counts",
    ("metadata/scenarios.json", "scenarios.*.run_directory_contains_edit_artifacts"): "about a folder outside the pack",
    ("reports/*/edit_metadata.json", "run_directory_contains_edit_artifacts"): "about a folder outside the pack",
    ("metadata/scenarios.json", "selection.expression.*"): "the words of the command; the cases say what it selected",
    ("metadata/tuned_edit_params.json", "*"): "entries that no case uses, notes, what the tuner saw",
    ("metadata/model_revisions.json", "models.*.files.*.size_bytes"): "raw: the digest next to it names the bytes",
    ("metadata/presets/*/null_run_*.json", "*"): "raw: what a null run measured, where no limit moves by it",
    ("manifest.json", "builder.*"): "who says to have built it",
    ("manifest.json", "materials.*.name"): "a name: the path and the digest of the same row are checked",
    ("manifest.json", "run_dir"): "a name",
    ("results/final_verdict.json", "timestamp"): "time",
    ("reports/*/evaluation.report.json", "scoring.batch_size"): "raw: how many windows were scored at a time",
    ("reports/*/evaluation.report.json", "spectral.raw.subject.modules.*.residual"): "raw: how far sigma has converged",
    ("reports/*/evaluation.report.json", "invariants.raw.subject.tensors.*.digest"): (
        "raw: of a tensor that the edit changed, as it says itself"
    ),
    ("reports/*/evaluation.report.json", "invariants.raw.subject.head"): "raw: a name, of use where a tie changed",
    ("reports/*/evaluation.report.json", "invariants.raw.subject.config.tie_word_embeddings"): (
        "raw: the tie itself is judged by storage and by value"
    ),
    ("reports/*/runtime.manifest.json", "generated_at_utc"): "time",
    ("reports/*/runtime.manifest.json", "context.assurance"): "raw: the assurance that the maker required",
    ("reports/*/runtime.manifest.json", "context.command"): "raw: what was typed",
    ("reports/*/runtime.manifest.json", "runtime.allow_remote_code"): "raw: how it was run",
    ("reports/*/runtime.manifest.json", "runtime.allow_third_party_plugins"): "raw: how it was run",
}
# False claims that the format detects in an earlier class, by exit code: the manifest's format, signer, digests and
# references, and edit metadata that contradict their report.
EARLIER = {
    4: {("manifest.json", "*")},
    5: {("manifest.json", "signing_key_fingerprint")},
    6: {
        ("manifest.json", "*.digest"),
        ("manifest.json", "*.path"),
        ("reports/*/edit_metadata.json", "*"),
        ("reports/*/evaluation.report.json", "baseline_ref.digest"),
        ("metadata/scenarios.json", "scenarios.*"),
    },
}


@pytest.fixture(scope="module")
def outcomes(
    real_run: Any, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> dict[int, set[tuple[str, Path_]]]:
    """Return, for each exit code, the leaves whose change causes it. Workers share the work."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "mutated"
    shared.mkdir(exist_ok=True)
    pack = tmp_path_factory.mktemp("mutated") / "pack"
    shutil.copytree(real_run.pack, pack)
    leave_pages_out(pack, real_run.key)
    files = pack_files(pack)
    everything = chosen(files)
    # first do the parts that no worker has locked, then wait for those of other workers
    for waits in (False, True):
        for part in range(PARTS):
            done = shared / f"{part}.json"
            with suppress(filelock.Timeout), filelock.FileLock(f"{done}.lock", blocking=waits):
                if not done.exists():
                    write_json(done, mutate(pack, files, everything[part::PARTS], real_run.key))
    found: dict[int, set[tuple[str, Path_]]] = defaultdict(set)
    for part in range(PARTS):
        for code, name, path in json.loads((shared / f"{part}.json").read_bytes()):
            found[code].add((name, tuple(path)))
    return found


def leave_pages_out(pack: Path, key: SigningKey) -> None:
    """Remove the pages, like a run with PACK_SKIP_HTML: a page would reveal changes that nothing else detects."""
    for page in pack.rglob("*.html"):
        page.unlink()
    readme = pack / "README.md"
    lines = readme.read_text().splitlines(keepends=True)
    readme.write_text("".join(line for line in lines if "`index.html`" not in line))
    seal(pack, key)
    assert strict(pack).code == 0


def mutate(pack: Path, files: dict[str, bytes], some: list[tuple[str, Path_]], key: SigningKey) -> list[Any]:
    """Change each leaf in turn and return its exit code, file and path."""
    found: list[Any] = []
    for name, path in some:
        document = json.loads(files[name])
        change(document, path)
        changed = forge(files, name, dump_json(document), key)
        for other, data in changed.items():
            put(pack / other, data)
        found.append([int(strict(pack).code), name, list(path)])
        for other in changed:
            put(pack / other, files[other])
    assert strict(pack).code == 0
    return found


def chosen(files: dict[str, bytes]) -> list[tuple[str, Path_]]:
    """Return leaves to change: one for each field of each kind of file, and more for fields that may be free."""
    everything = [
        (name, path)
        for name, data in files.items()
        if name.endswith(".json") and name != "manifest.signature.json"
        for path in leaves(json.loads(data))
        if (name, path) != ("manifest.json", ("checksums_sha256_digest",))
    ]
    random.Random(SEED).shuffle(everything)
    # test more leaves of these: most leaves that match a pattern in FREE are bound, and losses matter most
    raw = [pattern for pattern in FREE if pattern[1] != "*"] + [(REPORTS, "evaluation_windows.*logloss.*")]
    fields: dict[tuple[str, str], list[tuple[str, Path_]]] = defaultdict(list)
    often = set()
    for name, path in everything:
        key = kind(name), field(path)
        may_be_free = any(is_of(key, pattern) for pattern in FREE)
        own = (name, key[1]) if may_be_free else key
        fields[own].append((name, path))
        if any(is_of(key, pattern) for pattern in raw):
            often.add(own)
    found = {leaf for key, some in fields.items() for leaf in some[: EACH_RAW if key in often else EACH_FIELD]}
    return sorted(found, key=repr)


def kind(name: str) -> str:
    """Return the name of a file with its case or null run replaced by a star."""
    return re.sub(r"null_run_\d+", "null_run_*", re.sub(r"^reports/.*/", "reports/*/", name))


def field(path: Path_) -> str:
    """Return the name of a field with indices and modules replaced by a star."""
    return ".".join("*" if isinstance(step, int) or "." in step or "/" in step else step for step in path)


def fits(leaf: tuple[str, Path_], pattern: tuple[str, str]) -> bool:
    name, path = leaf
    return is_of((name, field(path)), pattern)


@cache
def is_of(key: tuple[str, str], pattern: tuple[str, str]) -> bool:
    """Return whether a pattern matches a field of a file."""
    return all(
        re.fullmatch(re.escape(wanted).replace(r"\*", ".*"), text) for wanted, text in zip(pattern, key, strict=True)
    )


def test_enough_leaves_were_changed(outcomes: dict[int, set[tuple[str, Path_]]]) -> None:
    derived = sum(len(found) for code, found in outcomes.items() if code)

    assert derived >= 1100
    assert derived + len(outcomes[0]) >= 1300


def test_what_survives_a_change_is_raw_and_listed_with_its_reason(
    outcomes: dict[int, set[tuple[str, Path_]]],
) -> None:
    assert {leaf for leaf in outcomes[0] if not any(fits(leaf, pattern) for pattern in FREE)} == set()


def test_every_listed_reason_is_used(outcomes: dict[int, set[tuple[str, Path_]]]) -> None:
    assert {pattern for pattern in FREE if not any(fits(leaf, pattern) for leaf in outcomes[0])} == set()


def test_every_other_change_is_a_report_that_does_not_follow_or_an_earlier_class(
    outcomes: dict[int, set[tuple[str, Path_]]],
) -> None:
    assert set(outcomes) <= {0, 4, 5, 6, 7}
    for code, patterns in EARLIER.items():
        unexplained = {leaf for leaf in outcomes[code] if not any(fits(leaf, pattern) for pattern in patterns)}
        assert unexplained == set(), code
    assert len(outcomes[7]) >= 0.9 * sum(len(found) for code, found in outcomes.items() if code)


def test_the_losses_of_every_window_are_bound(outcomes: dict[int, set[tuple[str, Path_]]]) -> None:
    # not the losses of null runs: limits are derived from their quantiles, which do not depend on every number
    raw = [
        leaf
        for found in outcomes.values()
        for leaf in found
        if leaf[0] != FAULT and not leaf[0].startswith("metadata/presets/") and "logloss" in str(leaf[1])
    ]

    assert len(raw) > 20
    assert set(raw) <= outcomes[7]
