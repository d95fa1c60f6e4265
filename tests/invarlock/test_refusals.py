"""Refusals: each error that a user can meet has a code, and the code decides the exit code of its class."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from invarlock.packer.runs.run_inputs import find_inputs
from invarlock.packer.runs.shards import read_shard
from invarlock.packer.trust.editing import add_signer, fingerprint_of
from invarlock.packer.trust.file_access import check_nobody_else_writes
from invarlock.packer.trust.keys import (
    load_public_key,
    load_signing_key,
    make_signing_key,
    passphrase_from,
    write_key_pair,
)
from invarlock.packer.trust.signers import TrustedSigner, parse_moment, read_trust_store
from invarlock.packer.verify.options import VerifyOptions

from invarlock import errors
from invarlock.boundary import run_command
from invarlock.catalog.edit_specs import parse_edit_spec
from invarlock.catalog.models import read_models
from invarlock.catalog.shards import shard_manifest
from invarlock.catalog.tuned_params import TunedParams
from invarlock.documents.catalog import EffectiveManifest
from invarlock.errors import CombinedError, InvarLockError, UsageError
from invarlock.evaluation.plausibility import check_plausible
from invarlock.evaluation.text_files import read_local_text
from invarlock.problems import Code, ExitCode, Problem
from invarlock.reports.policy import resolve_policy
from invarlock.reports.preset_files import read_preset
from invarlock.settings.edit_config import read_edit_config
from invarlock.settings.resolving import resolve_settings

ROOT = Path(__file__).parents[2]
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, InvarLockError)
}  # fmt: skip
# The code of these classes does not say what happened.
GENERAL = {"InvarLockError", "UsageError"}
SIGNER = f"sha256:{'a' * 64}"


@cache
def _refusals() -> list[tuple[str, str, ast.Call]]:
    """Return the place, the class and the call of each error that product code makes."""
    return list(_calls())


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    for folder in ("invarlock", "packer"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.func.id, node


def _is_coded(call: ast.Call) -> bool:
    return bool({"code", "problems"} & {keyword.arg for keyword in call.keywords})


def test_each_refusal_has_a_code_that_says_what_happened() -> None:
    general = [place for place, kind, call in _refusals() if kind in GENERAL]
    without = [
        place
        for place, kind, call in _refusals()
        if not _is_coded(call) and kind != "CombinedError" and (kind in GENERAL or place.startswith("packer/"))
    ]

    assert len(general) > 150
    assert without == [], "give it a code of invarlock/problems/codes.py: UsageError(..., code=Code....)"


def test_a_code_has_the_exit_code_of_its_class() -> None:
    # the same error about a file of a pack is a problem of the pack
    in_packs = ("packer/verify/", "packer/format/")
    wrong = [
        (place, kind, keyword.value.attr)
        for place, kind, call in _refusals()
        for keyword in call.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Attribute) and kind != "InvarLockError"
        if not place.startswith(in_packs)
        if isinstance(keyword.value.value, ast.Name) and keyword.value.value.id == "Code"
        if Code[keyword.value.attr].exit_code is not CLASSES[kind].default_code.exit_code
    ]

    assert wrong == []


def _key(folder: Path, passphrase: bytes | None = None) -> Path:
    return write_key_pair(folder / "maker", make_signing_key(), passphrase)[0]


def _written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def _world_writable(folder: Path) -> None:
    path = _written(folder, "store.json", "[]")
    path.chmod(0o666)
    check_nobody_else_writes(path)


def _twice_listed(folder: Path) -> None:
    for _ in range(2):
        add_signer(folder / "store.json", TrustedSigner(SIGNER))


def _models_twice(folder: Path) -> None:
    text = (ROOT / "suites/models.toml").read_text()
    first = text.index("[[model]]")
    row = text[first : text.index("[[model]]", first + 1)]
    read_models(_written(folder, "models.toml", text + "\n" + row))


def _report_of_no_run(folder: Path) -> None:
    find_inputs(
        [_written(folder, "evaluation.report.json", "{}")],
        **dict.fromkeys(("presets", "scenarios", "pytest_report", "source_repo", "environment")),
        baselines=[],
    )


EMPTY: EffectiveManifest = {
    "schema": "",
    "schema_version": 1,
    "scenarios": [],
    "selection": {"suite": "", "models": [], "scenario_ids": [], "expression": {}, "cases": []},
}
REFUSALS: dict[Code, Callable[[Path], object]] = {
    Code.KEY_MISSING: lambda folder: load_signing_key(folder / "absent.pem"),
    Code.KEY_MALFORMED: lambda folder: load_signing_key(_written(folder, "key.pem", "no key")),
    Code.KEY_ENCRYPTED: lambda folder: load_signing_key(_key(folder, b"secret")),
    Code.KEY_NOT_ENCRYPTED: lambda folder: load_signing_key(_key(folder), b"secret"),
    Code.PASSPHRASE_WRONG: lambda folder: load_signing_key(_key(folder, b"secret"), b"other"),
    Code.PASSPHRASE_UNUSABLE: lambda folder: passphrase_from("NO_SUCH_VARIABLE"),
    Code.WRITABLE_BY_EVERYBODY: _world_writable,
    Code.INPUT_UNREADABLE: lambda folder: load_public_key(folder / "absent.pub.pem"),
    Code.OUTPUT_EXISTS: lambda folder: [_key(folder), _key(folder)],
    Code.FINGERPRINT_MALFORMED: lambda folder: fingerprint_of("sha256:12"),
    Code.TIME_MALFORMED: lambda folder: parse_moment("yesterday"),
    Code.TRUST_STORE_MALFORMED: lambda folder: read_trust_store(_written(folder, "store.json", '{"signers": []}')),
    Code.TRUST_STORE_UNUSABLE: lambda folder: add_signer(folder, TrustedSigner(SIGNER)),
    Code.SIGNER_ALREADY_LISTED: _twice_listed,
    Code.SHARD_INCOMPLETE: read_shard,
    Code.BUILD_INPUT_UNUSABLE: _report_of_no_run,
    Code.OPTIONS_CONFLICT: lambda folder: VerifyOptions(strict=True, report_assurance="off").check(),
    Code.EDIT_SPEC_INVALID: lambda folder: parse_edit_spec("shrink:4"),
    Code.TUNED_PARAMETERS_UNUSABLE: lambda folder: TunedParams("tuned.json", {}, {}).resolve(
        parse_edit_spec("quant_rtn:clean:ffn"), "org/model"
    ),
    Code.SUITE_MALFORMED: _models_twice,
    Code.SELECTION_INVALID: lambda folder: shard_manifest(EMPTY, {}, 1, 3),
    Code.POLICY_UNKNOWN: lambda folder: resolve_policy("strictest", "ci", {}),
    Code.PRESET_UNUSABLE: lambda folder: read_preset(folder / "preset.yaml"),
    Code.SETTING_INVALID: lambda folder: resolve_settings({}, {"PACK_SUITE_MODE": "sometimes"}),
    Code.CONFIG_MALFORMED: lambda folder: read_edit_config(_written(folder, "config.yaml", "setings: {}")),
    Code.TEXT_UNUSABLE: lambda folder: read_local_text(_written(folder, "text.txt", "")),
    Code.BASELINE_IMPLAUSIBLE: lambda folder: check_plausible([None, 1.0], 100, 1.0),
    Code.INCLUDE_REFUSED: lambda folder: read_edit_config(_written(folder, "config.yaml", "!include absent.yaml")),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_has_its_code_in_the_error_and_its_document(code: Code, tmp_path: Path) -> None:
    with pytest.raises(InvarLockError) as caught:
        REFUSALS[code](tmp_path)

    error = caught.value
    assert error.code is code
    assert {problem.code for problem in error.problems} == {code}
    assert error.document()["code"] == code.value
    assert error.exit_code is code.exit_code


def test_a_command_prints_the_code_behind_each_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status = run_command(lambda: int(load_signing_key(tmp_path / "key.pem").seed != b""))

    assert status == ExitCode.MISSING
    assert capsys.readouterr().err.endswith(f"[{Code.KEY_MISSING}]\n")


def test_an_error_of_several_problems_lists_each_once() -> None:
    error = UsageError.listing(["one", "two", "one"], code=Code.RUN_CANNOT_BEGIN)

    assert error.problems == tuple(Problem(Code.RUN_CANNOT_BEGIN, "", "", line) for line in ("one", "two"))
    assert error.coded_text == "one [run_cannot_begin]\ntwo [run_cannot_begin]"


def test_each_line_of_an_error_ends_with_the_code_of_its_own_problem() -> None:
    key, folder = (
        Problem(Code.KEY_MISSING, "key.pem", "", "no such file"),
        Problem(Code.RUN_CANNOT_BEGIN, "", "", "full"),
    )
    listing = UsageError(f"{key}\n{folder}", code=Code.RUN_CANNOT_BEGIN, problems=[key, folder])
    summary = UsageError("the pack does not verify", code=Code.NOT_PACKED, problems=[key, folder])

    assert listing.coded_text == "key.pem: no such file [key_missing]\nfull [run_cannot_begin]"
    assert summary.coded_text == f"the pack does not verify [{Code.NOT_PACKED}]"
    assert CombinedError([listing, summary]).coded_text == f"{listing.coded_text}\n{summary.coded_text}"


def test_a_line_break_in_a_name_does_not_end_the_line_of_its_problem() -> None:
    error = UsageError("a\nb: bad", code=Code.USAGE_INVALID)

    assert error.coded_text == "a\\nb: bad [usage_invalid]"
