"""Evidence packs of a served subject and of a checkpoint: one report of ``invarlock evaluate``, sealed and verified."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from completions_server import Dialect, serve_model
from invarlock.packer.cli import main as packer
from invarlock.packer.inspection import inspect_pack
from shipped_checkpoints import EMBEDDED, write_baseline

from invarlock.cli import main
from invarlock.evaluation.served import client as client_module

pytestmark = pytest.mark.slow

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
KEY = "sk-very-secret"
NAME = "/home/jane/models/tiny-4bit"
GUARDS = "invariants, spectral, rmt, variance"
VERIFY = ("verify", "--strict", "--report-assurance", "report")


def run(command: Any, *arguments: object) -> tuple[int, str]:
    """Return the exit code of a command and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = command(list(map(str, arguments)))
    return code, printed.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the server was called, the folders of evaluate, and a signed pack of each."""
    folder = tmp_path_factory.mktemp("packs")
    base, subject = (write_baseline("mistral-tiny", folder / name) for name in ("base", "tiny-4bit"))
    assert run(packer, "keygen", folder / "maker")[0] == 0
    small = ("--seq-len", 32, "--preview-windows", 8, "--final-windows", 16, "--text", TEXT, "--baseline", base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(client_module.KEY_VARIABLE, KEY)
        with serve_model(subject, Dialect("prompt_logprobs")) as server:
            address = urlsplit(server.url).netloc
            server.names, server.version, server.fingerprint = (NAME,), "0.11.0", f"fp of {address}"
            server.facts = {"owned_by": f"jane with {KEY}", "max_model_len": 4096, "root": NAME}
            code, printed = run(
                main, "evaluate", *small, "--subject-url", server.url, "--output-dir", folder / "served"
            )
            keys = set(server.keys)
    assert (code, keys) == (0, {f"Bearer {KEY}"}), printed
    assert run(main, "evaluate", *small, "--subject", subject, "--output-dir", folder / "pair")[0] == 0
    for name in ("served", "pair"):
        report = folder / name / "evaluation.report.json"
        code, words = run(packer, "build", folder / f"{name}-pack", "--report", report, "--signing-key",
                          folder / "maker.pem")  # fmt: skip
        assert code == 0, words
    return {"folder": folder, "address": address, "printed": printed}


def served(made: dict[str, Any]) -> Path:
    return Path(made["folder"] / "served-pack")


def test_the_pack_of_a_served_subject_verifies_and_names_what_was_not_seen(made: dict[str, Any]) -> None:
    code, printed = run(packer, *VERIFY, served(made))

    assert code == 0, printed
    assert printed.startswith("VERIFIED")
    assert "verdict: PASS" in printed
    assert (
        f"weights, activations and configuration of 1 subject behind a server ({GUARDS} were not evaluated)" in printed
    )
    assert "the weights of 1 of 1 clean subjects, which a server computes with" in printed
    assert (
        "served subjects: model tiny-4bit, version 0.11.0, owned by jane with ***, tokens of context 4096, "
        "fingerprint fp of *** (the server states this, and nothing proves it)" in printed
    )


def test_the_pack_of_a_served_subject_is_no_better_evidence_than_that_of_a_checkpoint(made: dict[str, Any]) -> None:
    documents = {}
    for name in ("served", "pair"):
        code, printed = run(packer, *VERIFY, "--json", made["folder"] / f"{name}-pack")
        assert code == 0, printed
        documents[name] = json.loads(printed)

    assert documents["served"]["evidence_level"] == documents["pair"]["evidence_level"] == "medium"
    assert documents["served"]["stated_by_servers"]
    assert not documents["pair"]["stated_by_servers"]
    missing = {name: set(document["strong_evidence"]["missing"]) for name, document in documents.items()}
    assert missing["served"] - missing["pair"] == {"the weights of 1 of 1 clean subjects, which a server computes with"}


def test_no_file_of_a_pack_or_of_evaluate_has_the_address_the_key_or_a_folder_of_the_server(
    made: dict[str, Any],
) -> None:
    host, port = made["address"].split(":")
    secrets = [secret.encode() for secret in (KEY, made["address"], host, f":{port}", "/home/jane")]

    files = [
        path for part in ("served", "served-pack") for path in (made["folder"] / part).rglob("*") if path.is_file()
    ]

    assert {"manifest.json", "evaluation.report.json", "evaluation.html", "evaluate.log", "index.html"} <= {
        path.name for path in files
    }
    assert [(path, secret) for path in files for secret in secrets if secret in path.read_bytes()] == []
    assert KEY not in made["printed"]


def test_the_pages_and_inspect_show_what_the_server_states_as_unproven(made: dict[str, Any]) -> None:
    pack = served(made)
    stated = "model tiny-4bit, version 0.11.0"

    evidence = " ".join(inspect_pack(pack)["evidence_claimed"])
    pages = [(pack / "index.html").read_text(), next(pack.rglob("evaluation.html")).read_text()]

    for text in (evidence, *pages, (pack / "README.md").read_text()):
        assert stated in text
        assert "nothing proves it" in text
        assert "not evaluated" in text.lower()
    assert run(packer, "inspect", pack)[0] == 0


def test_diff_shows_which_guards_were_not_evaluated(made: dict[str, Any]) -> None:
    code, printed = run(packer, "diff", made["folder"] / "pair-pack", served(made))

    assert code == 0
    assert f"guard_flags no guard -> no guard (not evaluated: {GUARDS})" in printed


def test_a_report_in_the_pack_of_a_served_subject_verifies_alone(made: dict[str, Any]) -> None:
    code, printed = run(main, "verify", next((served(made) / "reports").rglob("evaluation.report.json")))

    assert code == 0, printed


def test_an_edit_record_of_a_served_subject_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(made["folder"] / "served", tmp_path / "out")
    shutil.copy(made["folder"] / "pair" / "edit_metadata.json", tmp_path / "out")
    run(packer, "build", tmp_path / "pack", "--report", tmp_path / "out/evaluation.report.json")
    assert not list((tmp_path / "pack").rglob("edit_metadata.json"))

    place = next((tmp_path / "pack" / "reports").rglob("evaluation.report.json")).parent
    shutil.copy(made["folder"] / "pair" / "edit_metadata.json", place)

    assert run(main, "verify", tmp_path / "pack", "--allow-unsigned", "--strict")[0] != 0


def test_attestations_boms_and_cards_name_no_digest_of_a_served_subject(made: dict[str, Any], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(served(made), pack)
    for predicate in ("invarlock", "svr", "test-result"):
        key = made["folder"] / "maker.pem"
        code, printed = run(packer, "attest", pack, "--signing-key", key, "--predicate", predicate)
        assert code == 0, printed

    assert run(packer, *VERIFY, pack)[0] == 0
    code, bom = run(main, "bom", pack)
    assert code == 0
    # after warnings
    component = json.loads(bom[bom.index("{") :])["metadata"]["component"]
    assert "hashes" not in component
    assert {"name": "invarlock:served:model_as_stated", "value": "tiny-4bit"} in component["properties"]
    code, card = run(main, "card", pack)
    assert code == 0
    assert "judged behind a server: `model tiny-4bit, version 0.11.0" in card
    assert "has no digest" in card


def test_a_pack_without_a_verdict_takes_one_report(made: dict[str, Any], tmp_path: Path) -> None:
    reports = [made["folder"] / name / "evaluation.report.json" for name in ("served", "pair")]

    code, printed = run(packer, "build", tmp_path / "pack", "--report", *reports)

    assert code == 2
    assert "--final-verdict: missing" in printed


def test_a_pack_whose_report_fails_a_gate_says_fail_and_verifies(made: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = write_baseline("mistral-tiny", tmp_path / "broken")
    for path in broken.glob("*.safetensors"):
        tensors = load_file(path)
        save_file(
            {name: tensor * (-1 if "layers.1.mlp.down" in name else 1) for name, tensor in tensors.items()},
            path,
            metadata={"format": "pt"},
        )
    small = ("--seq-len", 32, "--preview-windows", 8, "--final-windows", 16, "--text", TEXT)
    with serve_model(broken, Dialect("prompt_logprobs")) as server:
        code, _ = run(main, "evaluate", *small, "--baseline", made["folder"] / "base", "--subject-url", server.url,
                      "--output-dir", tmp_path / "out")  # fmt: skip
    assert code == 1

    code, printed = run(packer, "build", tmp_path / "pack", "--report", tmp_path / "out/evaluation.report.json",
                        "--signing-key", made["folder"] / "maker.pem")  # fmt: skip

    assert code == 0, printed
    assert "verdict FAIL" in printed
    assert run(packer, *VERIFY, tmp_path / "pack")[0] == 0
    assert run(packer, *VERIFY, "--require-pass", tmp_path / "pack")[0] == 7
