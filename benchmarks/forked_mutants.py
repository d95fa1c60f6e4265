"""Tests the mutants that `mutants.py` draws, each in a fork of one process: in seconds instead of minutes.

    python benchmarks/forked_mutants.py packer/verify/claims.py --sample 12
    python benchmarks/forked_mutants.py invarlock/edits/*.py --tests tests/invarlock/edits --budget 10
    python benchmarks/forked_mutants.py packer/verify/claims.py --again OUTPUT --budget 300    # what survived once more

All tests are collected and run once, to record which tests run which lines and how long they take. For each mutant the
process forks and replaces the code of the changed function. It then runs the tests that cover the changed lines until
one fails or the time budget is used up. A changed constant of a module is replaced in every module that imported it.
Tests that start processes are left out, because those processes do not see the change. `mutants.py` decides about
mutants that survive here and about other changes outside functions. A mutant that is killed here is killed there too,
except by tests that inspect a function's code object.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import coverage
import pytest
from mutated_modules import MODULES
from mutation import Mutant, sample_mutants

ROOT = Path(__file__).parents[1]
PYTEST = ("-q", "-m", "not slow", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=no", "--no-header")
NEW_LOCALS = 0x2
MAX_FAILURE_CHARACTERS = 300
SURVIVED, KILLED, OUTSIDE, NOT_RUN, OUT_OF_TIME = range(5)
NAMES = {
    SURVIVED: "survived",
    KILLED: "killed",
    OUTSIDE: "not in a function",
    NOT_RUN: "no test runs it",
    OUT_OF_TIME: "out of time",
}


@dataclass(frozen=True)
class Outcome:
    """The result for a mutant: its fate, how many of the tests that cover its lines ran, and how one of them failed."""

    module: str
    line: int
    kind: str
    became: str
    tests: str
    failure: str
    change: str


class Session:
    """A pytest plugin that runs the collected tests once, and then some of them for each mutant."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.outcomes: list[Outcome] = []
        self._failure = ""
        self._seconds: dict[str, float] = {}
        self._left_out: set[str] = set()
        self._items: dict[str, pytest.Item] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the first failure of a test."""
        if report.failed and not self._failure:
            crash = getattr(report.longrepr, "reprcrash", None)
            self._failure = f"{report.nodeid}: {getattr(crash, 'message', report.longrepr)}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests instead of pytest's own loop."""
        self._items = {item.nodeid: item for item in session.items}
        modules = {path: importlib.import_module(module_name(path)) for path in self.options.modules}
        lines = self._run_once(modules)
        for path, module in modules.items():
            original = (ROOT / path).read_text()
            for mutant in sample_mutants(original, self.options.sample, self.options.seed):
                if self.options.again is None or _change(original, mutant.source) in self.options.again:
                    self.outcomes.append(self._test(path, module, original, mutant, lines[path]))
        return True

    def _run_once(self, modules: Mapping[str, ModuleType]) -> dict[str, dict[int, list[str]]]:
        """Run every test once and return, for each module, which tests run each line."""
        measured = coverage.Coverage(data_file=None, include=[str(ROOT / path) for path in modules], config_file=False)
        started: list[object] = []
        popen = subprocess.Popen.__init__

        def noted(self: subprocess.Popen[Any], *arguments: Any, **options: Any) -> None:
            started.append(self)
            popen(self, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            # leave out tests that start a process: the process would run the code without the mutation
            patch.setattr(subprocess.Popen, "__init__", noted)
            measured.start()
            for name, item in self._items.items():
                measured.switch_context(name)
                started.clear()
                before = time.process_time()
                if not self._passes(item) or started:
                    self._left_out.add(name)
                self._seconds[name] = time.process_time() - before
            measured.stop()
        data = measured.get_data()
        return {path: data.contexts_by_lineno(str(ROOT / path)) for path in modules}

    def _passes(self, item: pytest.Item) -> bool:
        self._failure = ""
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self._failure

    def _chosen(self, tests: Sequence[str]) -> list[str]:
        """Return the tests that fit into the budget: fastest first, two of each function before more of one."""
        seen: Counter[str] = Counter()
        order = {}
        for test in sorted(tests, key=self._seconds.__getitem__):
            function = test.partition("[")[0]
            order[test] = (seen[function] // 2, self._seconds[test])
            seen[function] += 1
        chosen: list[str] = []
        seconds = 0.0
        for test in sorted(order, key=order.__getitem__):
            if seconds > self.options.budget:
                break
            seconds += self._seconds[test]
            chosen.append(test)
        return chosen

    def _test(
        self, path: str, module: ModuleType, original: str, mutant: Mutant, lines: Mapping[int, Sequence[str]]
    ) -> Outcome:
        tests = {test for line in statement_lines(original, mutant.source) for test in lines.get(line, ()) if test}
        # Coverage attributes the line of a constant to no test, so use every test that runs any line of the module.
        tests = (tests or {test for line in lines.values() for test in line if test}) - self._left_out
        chosen = self._chosen(sorted(tests))
        with tempfile.TemporaryFile() as failure:
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                self._be_the_mutant(module, original, mutant, chosen, failure.fileno())
            code = _wait(child, 60.0 + 12 * sum(self._seconds[test] for test in chosen))
            failure.seek(0)
            failed = " ".join(failure.read().decode("utf-8", "replace").split())
        became = NAMES.get(code, "killed")
        change = _change(original, mutant.source)
        outcome = Outcome(path, mutant.line, mutant.kind, became, f"{len(chosen)} of {len(tests)}", failed, change)
        print(json.dumps(asdict(outcome)), file=sys.__stdout__, flush=True)
        return outcome

    def _be_the_mutant(
        self, module: ModuleType, original: str, mutant: Mutant, chosen: Sequence[str], failure: int
    ) -> None:
        """Run the tests with the changed code, write the first failure to a file, and exit the process."""
        code = KILLED
        try:
            if not replace_code(module, original, mutant.source) and not replace_constant(
                module, original, mutant.source
            ):
                code = OUTSIDE
            elif not chosen:
                code = NOT_RUN
            elif all(self._passes(self._items[test]) for test in chosen):
                code = SURVIVED
            os.write(failure, self._failure[:MAX_FAILURE_CHARACTERS].encode("utf-8", "replace"))
        finally:
            os._exit(code)


def module_name(path: str) -> str:
    """Return the import name of a module in the checkout."""
    name = path.removesuffix(".py").replace("/", ".")
    return name if name.startswith("invarlock.") else f"invarlock.{name}"


def statement_lines(original: str, changed: str) -> set[int]:
    """Return the lines of the innermost statements that a change touches."""
    matcher = difflib.SequenceMatcher(None, original.splitlines(), changed.splitlines(), autojunk=False)
    touched = {
        line
        for kind, start, end, _, _ in matcher.get_opcodes()
        if kind != "equal"
        for line in range(start + 1, max(end, start + 1) + 1)
    }
    statements = [node for node in ast.walk(ast.parse(original)) if isinstance(node, ast.stmt)]
    found: set[int] = set()
    for line in touched:
        around = [node for node in statements if node.lineno <= line <= (node.end_lineno or node.lineno)]
        inner = max(around, key=lambda node: node.lineno, default=None)
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) or inner is None:
            found.add(line)
        else:
            found |= set(range(inner.lineno, (inner.end_lineno or inner.lineno) + 1))
    return found


def replace_code(module: ModuleType, original: str, changed: str) -> bool:
    """Replace the code of the one function that differs; return False if the change is not inside one function."""
    file = str(module.__file__)
    before, after = (_function_codes(compile(source, file, "exec")) for source in (original, changed))
    differing = [
        name
        for name, codes in before.items()
        if len(codes) != len(after.get(name, ())) or not all(map(_same, codes, after[name]))
    ]
    functions = _functions(module)
    if len(differing) != 1 or len(before[differing[0]]) != 1 or differing[0] not in functions:
        return False
    (code,) = after[differing[0]]
    for function in functions[differing[0]]:
        if function.__code__.co_freevars != code.co_freevars:
            return False
        function.__code__ = code
    inner = {nested.co_qualname: nested for nested in _nested(code)}
    for function in gc.get_objects() if inner else ():
        # Also update closures that the function returned earlier, such as a reader that is made when its module is
        # imported. type() is used because isinstance() makes some PyTorch objects warn.
        if type(function) is FunctionType and function.__code__.co_filename == file:
            nested = inner.get(function.__code__.co_qualname)
            if nested is not None and nested.co_freevars == function.__code__.co_freevars:
                function.__code__ = nested
    _forget_results(module)
    return True


def replace_constant(module: ModuleType, original: str, changed: str) -> bool:
    """Replace a module's constant wherever it was imported; return False if the change is of another kind."""
    before, after = ast.parse(original).body, ast.parse(changed).body
    if len(before) != len(after):
        return False
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if ast.dump(one) != ast.dump(other)]
    if len(pairs) != 1 or not isinstance(pairs[0][1], ast.Assign | ast.AnnAssign) or pairs[0][1].value is None:
        return False
    target = pairs[0][1].targets[0] if isinstance(pairs[0][1], ast.Assign) else pairs[0][1].target
    if not isinstance(target, ast.Name):
        return False
    old = vars(module)[target.id]
    new = eval(compile(ast.Expression(pairs[0][1].value), str(module.__file__), "eval"), vars(module))
    for other in list(sys.modules.values()):
        if other.__name__.startswith("invarlock") and vars(other).get(target.id) is old:
            setattr(other, target.id, new)
    _forget_results(module)
    return True


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _forget_results(module: ModuleType) -> None:
    """Clear the result caches of a module's functions, wherever the functions are referenced."""
    for value in gc.get_objects():
        if type(value) is functools._lru_cache_wrapper and value.__module__ == module.__name__:
            value.cache_clear()


def _function_codes(code: CodeType) -> dict[str, list[CodeType]]:
    """Return the code of each function of a module and of its classes, by qualified name."""
    found: dict[str, list[CodeType]] = defaultdict(list)
    for constant in code.co_consts:
        if not isinstance(constant, CodeType) or constant.co_name.startswith("<"):
            continue
        if constant.co_flags & NEW_LOCALS:
            found[constant.co_qualname].append(constant)
        else:
            for name, codes in _function_codes(constant).items():
                found[name] += codes
    return found


def _same(one: CodeType, other: CodeType) -> bool:
    names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_flags", "co_argcount", "co_exceptiontable")
    if any(getattr(one, name) != getattr(other, name) for name in names) or len(one.co_consts) != len(other.co_consts):
        return False
    return all(
        _same(mine, theirs)
        if isinstance(mine, CodeType) and isinstance(theirs, CodeType)
        else (type(mine), repr(mine)) == (type(theirs), repr(theirs))
        for mine, theirs in zip(one.co_consts, other.co_consts, strict=True)
    )


def _functions(module: ModuleType) -> dict[str, list[FunctionType]]:
    """Return the unwrapped functions of a module and of its classes, by qualified name."""
    found: dict[str, list[FunctionType]] = defaultdict(list)
    todo, seen = list(vars(module).values()), set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType) and value.__code__.co_filename == module.__file__:
            found[value.__code__.co_qualname].append(value)
        if isinstance(value, type) and value.__module__ == module.__name__:
            todo += vars(value).values()
        todo += _wrapped(value)
    return found


def _wrapped(value: object) -> Iterator[object]:
    if isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, functools.cached_property):
        yield value.func
    elif not isinstance(value, ModuleType) and hasattr(value, "__wrapped__"):
        yield value.__wrapped__


def _change(before: str, after: str) -> str:
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return "  ".join(" ".join(line.split()) for line in lines if line[:2] in ("- ", "+ "))


def undecided(output: Path) -> set[str]:
    """Return the changes in an earlier output of this script that no test detected."""
    rows = [
        json.loads(line[line.index('{"module"') :])
        for line in output.read_text("utf-8").splitlines()
        if '{"module"' in line
    ]
    return {row["change"] for row in rows if row["became"] != NAMES[KILLED]}


def _wait(child: int, limit_seconds: float) -> int:
    """Return the exit code of a child. A child that exceeds the limit is killed, and its mutant is undecided."""
    over = time.monotonic() + limit_seconds
    while time.monotonic() < over:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return OUT_OF_TIME


def main() -> None:
    """Test the mutants of some modules; print a line of JSON for each mutant, then the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", help="paths such as packer/verify/claims.py")
    parser.add_argument("--tests", nargs="+", help="test files; those closest to the modules when left out")
    parser.add_argument("--sample", type=int, default=12, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds of tests for each mutant")
    parser.add_argument(
        "--again",
        type=lambda path: undecided(Path(path)),
        metavar="OUTPUT",
        help="of these, only those that no test noticed there",
    )
    options = parser.parse_args()
    tests = options.tests or list(dict.fromkeys(test for module in options.modules for test in MODULES[module]))
    session = Session(options)
    os.chdir(ROOT)
    code = pytest.main([*PYTEST, *tests], plugins=[session])
    counts = Counter((outcome.module, outcome.became) for outcome in session.outcomes)
    for (module, became), number in sorted(counts.items()):
        print(f"{module:45} {became:18} {number:4}")
    sys.exit(code)


if __name__ == "__main__":
    main()
