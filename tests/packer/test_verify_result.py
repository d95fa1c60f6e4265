"""The options of a receiver, which of them exclude each other, and the fields of a result."""

from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.verify.options import VerifyOptions
from invarlock.packer.verify.policies import ReceiverPolicy
from invarlock.packer.verify.result import VerifyResult

from invarlock.errors import UsageError
from invarlock.problems import Code, ExitCode, Problem

PACK = Path("pack")
SIGNER = f"sha256:{'a' * 64}"
PROBLEM = Problem(Code.FILE_ABSENT, "README.md", "", "missing")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"policy": ReceiverPolicy({}), "report_assurance": "off"}, "--policy and --report-assurance off"),
        ({"strict": True, "report_assurance": "off"}, "--strict and --report-assurance off"),
        ({"allow_unsigned": True, "strict": True}, "--allow-unsigned and --strict"),
        ({"allow_unsigned": True, "expected_fingerprint": SIGNER}, "--allow-unsigned and --expected-fingerprint"),
        ({"allow_unsigned": True, "trust_store": PACK}, "--allow-unsigned and --trust-store"),
        ({"allow_unsigned": True, "timestamp_certificate": PACK}, "--allow-unsigned and --timestamp-certificate"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        VerifyOptions(**options).check()

    assert (caught.value.code, str(caught.value)) == (
        Code.OPTIONS_CONFLICT, f"{named} cannot be combined; drop one",
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strict": True, "report_assurance": "strict", "expected_fingerprint": SIGNER, "trust_store": PACK},
        {"strict": True, "policy": ReceiverPolicy({}), "timestamp_certificate": PACK},
        {"policy": ReceiverPolicy({}), "allow_unsigned": True},
        {"report_assurance": "off", "timestamp_certificate": PACK},
        {"allow_unsigned": True, "default_store": PACK, "report_assurance": "off"},
        {"require_pass": True},
    ],
)
def test_all_other_options_go_together(options: dict[str, Any]) -> None:
    VerifyOptions(**options).check()


def test_nothing_is_allowed_or_required_by_default() -> None:
    options = VerifyOptions()

    assert (options.strict, options.allow_unsigned, options.require_pass) == (False, False, False)
    assert (options.report_assurance, options.expected_fingerprint, options.trust_store) == ("report", None, None)


def test_a_new_result_is_empty() -> None:
    result = VerifyResult(PACK, VerifyOptions())

    assert (result.code, result.ok, result.signed, result.reports_verified) == (ExitCode.OK, False, False, False)
    assert (result.integrity_ok, result.attested, result.strong) == (False, (), False)


@pytest.mark.parametrize(
    ("signer", "problems", "ok", "authenticity"),
    [
        (SIGNER, (), True, "unpinned"),
        (SIGNER, (PROBLEM,), False, "unpinned"),
        (None, (), False, "unsigned"),
        (None, (PROBLEM,), False, "unpinned"),
    ],
)
def test_a_pack_is_ok_when_every_check_passed_and_it_is_signed(
    signer: str | None, problems: tuple[Problem, ...], ok: bool, authenticity: str
) -> None:
    result = VerifyResult(PACK, VerifyOptions(), problems, signer=signer)

    document = result.document()

    assert (result.ok, document["ok"], document["signed"]) == (ok, ok, signer is not None)
    assert (document["authenticity"], document["signer_fingerprint"]) == (authenticity, signer)
    assert document["exit_code"] == result.code == (7 if problems else 0)
    assert len(document["errors"]) == len(problems)
    assert result.strong == ok
    assert not VerifyResult(PACK, VerifyOptions(), signer=SIGNER, missing_for_strong=("more",)).strong


@pytest.mark.parametrize(
    ("assurance", "verified", "problems", "scope", "status"),
    [
        ("off", False, (), "integrity", "not_checked"),
        ("off", False, (PROBLEM,), "integrity", "not_checked"),
        ("report", True, (), "integrity_and_reports", "ok"),
        ("report", False, (), "integrity_and_reports", "not_checked"),
        ("report", False, (PROBLEM,), "integrity_and_reports", "failed"),
        ("strict", False, (PROBLEM,), "integrity_and_reports", "failed"),
    ],
)
def test_a_result_says_how_much_was_checked(
    assurance: Any, verified: bool, problems: tuple[Problem, ...], scope: str, status: str
) -> None:
    result = VerifyResult(
        PACK, VerifyOptions(report_assurance=assurance), problems, signer=SIGNER, reports_verified=verified
    )

    document = result.document()

    assert (document["verification_scope"], document["assurance_status"]) == (scope, status)
    assert document["report_assurance"] == assurance
