"""The expected signer of a pack: pinned fingerprints, trust stores, and unsigned packs."""

import json
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.build.building import build_pack
from invarlock.packer.trust.keys import fingerprint
from invarlock.packer.trust.signers import parse_moment
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import (
    TIME,
    content,
    edit_json,
    messages,
    strict,
)
from processes import packer

from invarlock.errors import UsageError


@pytest.mark.parametrize("name", ["signing_key_fingerprint", None])
@pytest.mark.parametrize("strictly", [True, False])
def test_a_pinned_signer_is_never_satisfied_by_a_pack_without_a_signature(
    pack: Path, real_run: Any, name: str | None, strictly: bool
) -> None:
    (pack / "manifest.signature.json").unlink()
    edit_json(pack / "manifest.json", lambda manifest: manifest.pop(name, None))
    pinned = VerifyOptions(strict=strictly, expected_fingerprint=fingerprint(real_run.key.public))

    result = verify_pack(pack, pinned)

    assert (result.code, result.authenticity, result.signer) == (5, "unpinned", None)
    assert "missing" in messages(result)


@pytest.mark.parametrize("options", [{}, {"strict": True}, {"report_assurance": "off"}, {"report_assurance": "strict"}])
def test_a_pack_without_a_signature_is_refused_in_every_mode(
    run: Path, tmp_path: Path, real_run: Any, options: dict[str, Any]
) -> None:
    unsigned = build_pack(tmp_path / "unsigned", content(run), None, TIME).path
    store = tmp_path / "store.json"
    store.write_text(json.dumps([fingerprint(real_run.key.public)]))

    choices: tuple[dict[str, Any], ...] = ({}, {"trust_store": store}, {"default_store": store})
    for trust in choices:
        result = verify_pack(unsigned, VerifyOptions(**options, **trust))
        assert (result.code, result.ok, result.reports_verified) == (5, False, False)
        assert "ask its maker to sign it" in messages(result)


def test_an_unsigned_pack_is_always_named_as_unsigned(run: Path, tmp_path: Path) -> None:
    unsigned = build_pack(tmp_path / "unsigned", content(run), None, TIME).path

    said = packer("verify", unsigned, "--allow-unsigned", "--json-out", tmp_path / "verified.json")
    document = json.loads((tmp_path / "verified.json").read_bytes())

    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith("NOT SIGNED, all other checks passed: ")
    assert "VERIFIED" not in said.stdout
    assert "\nsigner: none" in said.stdout
    # a reader who checks only `ok` does not mistake it for a signed pack
    assert (document["ok"], document["signed"], document["exit_code"]) == (False, False, 0)
    assert (document["authenticity"], document["signer_fingerprint"]) == ("unsigned", None)
    assert (document["integrity_ok"], document["reports_verified"], document["errors"]) == (True, True, [])
    assert document["warnings"][0] == "the pack is not signed: anybody could have made it"
    assert document["strong_evidence"]["ok"] is False


@pytest.mark.parametrize(
    "option", [{"strict": True}, {"expected_fingerprint": f"sha256:{'0' * 64}"}, {"trust_store": Path("none.json")}]
)
def test_allow_unsigned_cannot_be_combined_with_options_about_signers(pack: Path, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"--allow-unsigned and --.* cannot be combined"):
        verify_pack(pack, VerifyOptions(allow_unsigned=True, **option))


def test_a_signed_pack_is_judged_alike_where_unsigned_ones_are_allowed(
    pack: Path, real_run: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store.json"
    allowed = VerifyOptions(allow_unsigned=True, default_store=store)

    for entry, code in (({}, 0), ({"revoked": True}, 5)):
        store.write_text(json.dumps([{"fingerprint": fingerprint(real_run.key.public), **entry}]))
        assert verify_pack(pack, allowed).code == code
    (pack / "manifest.signature.json").unlink()
    assert verify_pack(pack, allowed).code == 5, "the manifest names its signer"


@pytest.mark.parametrize(
    ("entries", "as_default", "as_named"),
    [
        ([], 0, 5),
        ([{"fingerprint": f"sha256:{'1' * 64}"}], 0, 5),
        ([{}], 0, 0),
        ([{"revoked": True}], 5, 5),
        ([{}, {"revoked": True}], 5, 5),
        ([{"not_after": "2020-01-01"}], 5, 5),
    ],
)
def test_an_expected_fingerprint_is_accepted_unless_the_default_store_refuses_it(
    pack: Path, real_run: Any, tmp_path: Path, entries: list[dict[str, Any]], as_default: int, as_named: int
) -> None:
    signer, store = fingerprint(real_run.key.public), tmp_path / "store.json"
    store.write_text(json.dumps([{"fingerprint": signer, **entry} for entry in entries]))

    by_default = strict(pack, expected_fingerprint=signer, default_store=store)
    named = strict(pack, expected_fingerprint=signer, trust_store=store)

    assert (by_default.code, named.code) == (as_default, as_named)
    assert (by_default.authenticity == "pinned", named.authenticity == "pinned") == (not as_default, not as_named)
    # without an expected fingerprint, the default store decides
    assert strict(pack, default_store=store).code == as_named
    assert strict(pack, expected_fingerprint=f"sha256:{'2' * 64}", default_store=store).code == 5


def test_the_default_store_is_read_where_none_is_named(
    pack: Path, real_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / ".config/invarlock/trusted-signers.json"
    store.parent.mkdir(parents=True)
    store.write_text(json.dumps([{"fingerprint": f"sha256:{'1' * 64}"}]))
    monkeypatch.setenv("HOME", str(tmp_path))

    assert packer("verify", pack).returncode == 5
    assert packer("verify", pack, "--expected-fingerprint", fingerprint(real_run.key.public)).returncode == 0
    store.write_text(json.dumps([{"fingerprint": fingerprint(real_run.key.public), "revoked": True}]))
    assert packer("verify", pack, "--expected-fingerprint", fingerprint(real_run.key.public)).returncode == 5


def test_trust_is_judged_at_the_given_time_and_at_the_time_of_the_pack(
    run: Path, real_run: Any, tmp_path: Path
) -> None:
    pack = build_pack(tmp_path / "out", content(run), real_run.key, TIME).path
    signer = fingerprint(real_run.key.public)
    store = tmp_path / "store.json"

    def code(at: str, **entry: Any) -> int:
        store.write_text(json.dumps([{"fingerprint": signer, **entry}]))
        return strict(pack, trust_store=store, at=parse_moment(at)).code

    assert code("2026-02-01", not_before="2026-01-01", not_after="2026-03-01") == 0
    assert code("2026-04-01", not_before="2026-01-01", not_after="2026-03-01") == 5
    # the pack was made before its signer was trusted
    assert code("2026-02-15", not_before="2026-02-01", not_after="2026-03-01") == 5
    assert code("2026-02-15", revoked=True) == 5
    early = strict(pack, at=parse_moment("2026-01-01"))
    assert (early.code, early.warnings[-1][:40]) == (0, "the pack claims to be made at 2026-01-31")
