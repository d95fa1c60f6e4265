"""Which modules the mutation run changes: all of the packages that decide something, each with tests that exist."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
# In these packages every module decides something, or says here why it does not.
DECIDING = ("packer/trust", "packer/verify", "invarlock/guards", "invarlock/metrics", "invarlock/statistics",
            "invarlock/edits", "invarlock/verdict", "invarlock/judgement")  # fmt: skip
DECIDES_NOTHING = {
    "invarlock/judgement/context.py": "a value",
    "invarlock/judgement/detector.py": "a value",
    "invarlock/metrics/fidelity_page.py": "what a page shows",
    "invarlock/metrics/perplexity_page.py": "what a page shows",
    "invarlock/verdict/documents.py": "types",
    "invarlock/verdict/job_summary.py": "what a CI service shows",
    "invarlock/verdict/words.py": "what pages and tables show",
}
MODULES: dict[str, tuple[str, ...]] = runpy.run_path(str(ROOT / "benchmarks" / "mutated_modules.py"))["MODULES"]


def test_every_module_that_is_mutated_is_there_with_the_tests_closest_to_it() -> None:
    missing = {path for path in MODULES if not (ROOT / path).is_file()}
    missing |= {test for tests in MODULES.values() for test in tests if not (ROOT / test).exists()}

    assert missing == set()
    assert all(MODULES.values())


def test_every_module_of_the_packages_that_decide_something_is_mutated() -> None:
    there = {
        str(path.relative_to(ROOT))
        for folder in DECIDING
        for path in (ROOT / folder).glob("*.py")
        if path.name != "__init__.py"
    }

    assert there - set(MODULES) == set(DECIDES_NOTHING), "add it to benchmarks/mutated_modules.py"
