"""OpenSSF model signatures of checkpoints: who signed, and what is refused."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from base64 import b64decode
from pathlib import Path

import pytest
import sigstore
from invarlock.packer.trust.checkpoint_subjects import model_signature_digest
from model_signers import make_certificates, make_key, sign_with_certificate, sign_with_key
from shipped_checkpoints import write_baseline

from invarlock.checkpoints import model_signatures
from invarlock.checkpoints.digests import digest_file
from invarlock.checkpoints.layout import checkpoint_files
from invarlock.checkpoints.model_signatures import ModelSignature, RequiredSignature, parse_signature, verify_signature
from invarlock.cli import main
from invarlock.errors import CheckpointError, InvarLockError, UsageError
from invarlock.evaluation.pair_request import PairRequest, check_request
from invarlock.problems import Code

# Two files that a maintainer of model-signing signed with a Sigstore identity: scripts/tests/v1.0.0-sigstore of
# https://github.com/sigstore/model-transparency (Apache-2.0). Nobody can sign so without a network.
SIGSTORE_MODEL = Path(__file__).parents[2] / "data/sigstore_model"
IDENTITY, ISSUER = "stefanb@us.ibm.com", "https://sigstore.verify.ibm.com/oauth2"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_key(tmp_path_factory.mktemp("keys"), "maker")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_baseline("mistral-tiny", tmp_path / "model")
    return tmp_path / "model"


def by_key(public: Path) -> RequiredSignature:
    return parse_signature(f"subject=key:{public}")


def refused(folder: Path, wanted: RequiredSignature) -> Code:
    with pytest.raises(InvarLockError) as caught:
        verify_signature(folder, wanted)
    return caught.value.code


def test_a_signature_by_a_key_names_signer_and_model(model: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    sign_with_key(model, private)

    found = verify_signature(model, by_key(public))

    assert found.method == "key"
    assert len(found.signer) == len("sha256:") + 64
    files = {name: digest_file(model / name) for name in checkpoint_files(model)}
    # the digest that attestations of a pack have for the same files
    assert found.digest == f"sha256:{model_signature_digest(files)}"
    assert found.document() == {"method": "key", "signer": found.signer, "digest": found.digest}


def test_a_signature_in_shards_of_files_is_verified(model: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    sign_with_key(model, private, shard_bytes=1_000_000)
    assert verify_signature(model, by_key(public)).method == "key"

    (model / "config.json").write_text("{}")
    assert refused(model, by_key(public)) is Code.MODEL_SIGNATURE_DOES_NOT_HOLD


def test_a_signature_by_a_certificate_names_its_subject(model: Path, tmp_path: Path) -> None:
    key, certificate, root = make_certificates(tmp_path, "Model maker")
    _, _, other = make_certificates(tmp_path, "Other maker")
    sign_with_certificate(model, key, certificate, root)

    found = verify_signature(model, parse_signature(f"baseline=certificate:{root}"))

    assert (found.method, found.signer) == ("certificate", "CN=Model maker")
    assert refused(model, parse_signature(f"baseline=certificate:{other}")) is Code.MODEL_SIGNATURE_DOES_NOT_HOLD


def test_links_and_files_that_are_no_part_of_the_checkpoint_do_no_harm(
    model: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    sign_with_key(model, private)
    cache = tmp_path / "cache"
    cache.mkdir()
    for file in model.iterdir():
        (cache / file.name).symlink_to(file)
    (cache / "README.md").write_text("a card that came later")
    (cache / "task_records.json").write_text("{}")

    assert verify_signature(cache, by_key(public)) == verify_signature(model, by_key(public))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_changed_or_missing_file_is_refused(model: Path, keys: tuple[Path, Path], name: str) -> None:
    private, public = keys
    sign_with_key(model, private)
    data = bytearray((model / name).read_bytes())
    data[-2] ^= 1
    (model / name).write_bytes(bytes(data))
    assert refused(model, by_key(public)) is Code.MODEL_SIGNATURE_DOES_NOT_HOLD


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_signature_that_leaves_a_file_of_the_checkpoint_out_is_refused(
    model: Path, keys: tuple[Path, Path], name: str
) -> None:
    private, public = keys
    sign_with_key(model, private, name)

    with pytest.raises(CheckpointError, match=f"does not cover {name}") as caught:
        verify_signature(model, by_key(public))
    assert caught.value.code is Code.MODEL_SIGNATURE_DOES_NOT_HOLD


def test_a_signature_by_another_key_is_refused(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, _ = keys
    _, other = make_key(tmp_path, "other")
    sign_with_key(model, private)

    assert refused(model, by_key(other)) is Code.MODEL_SIGNATURE_DOES_NOT_HOLD


def test_a_key_is_not_taken_for_a_sigstore_identity(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    sign_with_key(model, private)
    (tmp_path / "roots.json").write_text("{}")

    wanted = parse_signature(f"subject=sigstore:me@example.com,https://accounts.example.com,{tmp_path / 'roots.json'}")

    assert wanted.trusted[:2] == ("me@example.com", "https://accounts.example.com")
    assert refused(model, wanted) is Code.MODEL_SIGNATURE_DOES_NOT_HOLD
    assert refused(model, parse_signature(f"subject=certificate:{public}")) is Code.MODEL_SIGNATURE_DOES_NOT_HOLD


@pytest.fixture
def sigstore_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(SIGSTORE_MODEL, tmp_path / "signed")
    # these files are no checkpoint, which has other names
    monkeypatch.setattr(model_signatures, "checkpoint_files", lambda folder: ["signme-1", "signme-2"])
    return tmp_path / "signed"


@pytest.fixture(scope="module")
def sigstore_roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The roots of the public instance that come with sigstore-python, as a trust configuration."""
    store = Path(sigstore.__file__).parent / "_store/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
    path = tmp_path_factory.mktemp("roots") / "trust.json"
    path.write_text(
        json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": json.loads((store / "trusted_root.json").read_bytes()),
                "signingConfig": json.loads((store / "signing_config.v0.2.json").read_bytes()),
            }
        )
    )
    return path


def by_identity(roots: Path, identity: str = IDENTITY, issuer: str = ISSUER) -> RequiredSignature:
    return parse_signature(f"subject=sigstore:{identity},{issuer},{roots}")


def test_a_signature_by_a_sigstore_identity_is_verified_offline(
    sigstore_model: Path, sigstore_roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)

    found = verify_signature(sigstore_model, by_identity(sigstore_roots))

    files = {name: digest_file(sigstore_model / name) for name in ("signme-1", "signme-2")}
    assert found == ModelSignature("sigstore", f"{IDENTITY} ({ISSUER})", f"sha256:{model_signature_digest(files)}")


def _no_network(*_: object) -> None:
    raise AssertionError("verifying a model signature looked up an address")


def test_a_sigstore_signature_of_another_identity_or_other_files_is_refused(
    sigstore_model: Path, sigstore_roots: Path
) -> None:
    does_not_hold = Code.MODEL_SIGNATURE_DOES_NOT_HOLD
    other_instance = json.loads(sigstore_roots.read_bytes())
    other_instance["trustedRoot"]["certificateAuthorities"] = []
    elsewhere = sigstore_roots.with_name("elsewhere.json")
    elsewhere.write_text(json.dumps(other_instance))

    assert refused(sigstore_model, by_identity(sigstore_roots, identity="mallory@us.ibm.com")) is does_not_hold
    assert refused(sigstore_model, by_identity(sigstore_roots, issuer="https://accounts.google.com")) is does_not_hold
    assert refused(sigstore_model, by_identity(elsewhere)) is does_not_hold
    (sigstore_model / "signme-1").write_text("another")
    assert refused(sigstore_model, by_identity(sigstore_roots)) is does_not_hold


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope": {"payload": "e30="}}', b"[" * 5000])
def test_a_malformed_signature_is_refused(model: Path, keys: tuple[Path, Path], data: bytes) -> None:
    (model / "model.sig").write_bytes(data)

    assert refused(model, by_key(keys[1])) is Code.MODEL_SIGNATURE_DOES_NOT_HOLD


def test_a_checkpoint_without_a_signature_is_refused(model: Path, keys: tuple[Path, Path]) -> None:
    assert refused(model, by_key(keys[1])) is Code.MODEL_SIGNATURE_MISSING


@pytest.mark.parametrize(
    "text", ["", "key:x", "subject=key", "subject=key:", "other=key:x", "subject=sigstore:a,b", "subject=pgp:x"]
)
def test_another_form_of_the_option_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_signature(text)
    assert caught.value.code is Code.USAGE_INVALID


def test_the_trusted_file_exists_and_each_side_is_named_once(
    model: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as missing:
        parse_signature("subject=key:/nowhere")
    twice = (by_key(keys[1]), by_key(keys[1]))
    with pytest.raises(UsageError) as both:
        check_request(PairRequest(model, model, tmp_path, model_signatures=twice), tmp_path / "out")

    assert missing.value.code is Code.INPUT_UNREADABLE
    assert both.value.code is Code.OPTIONS_CONFLICT


def test_without_the_extra_it_says_what_to_install(
    model: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)

    assert refused(model, by_key(keys[1])) is Code.EXTRA_NOT_INSTALLED


@pytest.mark.slow
def test_an_evaluation_records_the_signer_and_refuses_before_measuring(
    model: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = keys
    baseline = tmp_path / "baseline"
    write_baseline("mistral-tiny", baseline)
    sign_with_key(model, private)
    sign_with_key(baseline, private)
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged that a good fortune wants a wife. " * 400)
    small = ("--text", str(text), "--seq-len", "64", "--preview-windows", "8", "--final-windows", "16")
    sides = ("--model-signature", f"baseline=key:{public}", "--model-signature", f"subject=key:{public}")

    def evaluate(name: str) -> int:
        folders = ("--baseline", str(baseline), "--subject", str(model), "--output-dir", str(tmp_path / name))
        return main(["evaluate", *folders, *small, *sides])

    assert evaluate("out") in (0, 1)
    report = json.loads((tmp_path / "out/evaluation.report.json").read_bytes())
    expected = verify_signature(model, by_key(public)).document()
    assert report["subject"]["model_signature"] == expected
    assert report["baseline_ref"]["model_signature"] == ModelSignature(**expected).document()
    assert main(["verify", str(tmp_path / "out/evaluation.report.json")]) == 0
    assert f"subject signed by {expected['signer']} (key)" in (tmp_path / "out/evaluation.html").read_text()

    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert evaluate("refused") == 2
    assert not (tmp_path / "refused").exists()
    assert b64decode(json.loads((model / "model.sig").read_bytes())["dsseEnvelope"]["payload"])
