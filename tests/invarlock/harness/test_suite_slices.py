"""Suites with several texts: each text is a slice, and a subject that unlearned one of them fails."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_client import client_environment
from hub_server import Hub, Repository, serve_hub
from invarlock.packer.format.layout import MODEL_REVISIONS
from invarlock.packer.runs.run_directory import RunDirectory
from processes import packer, succeed
from shipped_checkpoints import EMBEDDED, write_baseline
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.catalog.models import WindowCounts, read_models
from invarlock.catalog.scenarios import read_scenarios
from invarlock.checkpoints.editing import apply_edits
from invarlock.errors import DocumentError
from invarlock.harness.planning.sizing import forward_pass, kept_bytes
from invarlock.harness.selection.mark_expressions import MarkExpression
from invarlock.harness.selection.selected_cases import make_catalog
from invarlock.harness.sources.texts import slice_counts, suite_texts, window_counts
from invarlock.harness.state.run import Run
from invarlock.settings import resolve_settings

SUITES = Path(__file__).parents[3] / "suites"
AUSTEN, MELVILLE = "austen_heldout.txt.xz", "melville.txt.xz"


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def words(name: str) -> str:
    return lzma.decompress((EMBEDDED / "text" / name).read_bytes()).decode("utf-8")


def planned(folder: Path, marks: str, **options: object) -> Run:
    settings = resolve_settings({"execution_mode": "host", **options}, {})
    models, scenarios = read_models(SUITES / "models.toml"), read_scenarios(SUITES / "scenarios.json")
    catalog = make_catalog(models, scenarios, MarkExpression.parse(marks), [], settings)
    return Run(SUITES, settings, catalog, RunDirectory(folder), 1, datetime.now(UTC), {})


def test_the_slices_of_the_smoke_suite_have_windows_of_their_own(tmp_path: Path) -> None:
    run = planned(tmp_path, "smoke")

    assert slice_counts(run) == {"austen": WindowCounts(128, 32, 64), "melville": WindowCounts(128, 32, 32)}
    # 96 final windows of 127 predicted tokens, each with 512 ids and log-probabilities
    assert kept_bytes(run) == 96 * 127 * (8 * 512 + 4)
    assert forward_pass(run)[1] == 128


def test_settings_bound_further_slices_and_never_widen_them(tmp_path: Path) -> None:
    fewer = planned(tmp_path, "smoke", seq_len=64, preview_windows=8, final_windows=16)
    more = planned(tmp_path, "smoke", preview_windows=200, final_windows=200, seq_len=200)

    assert slice_counts(fewer) == {"austen": WindowCounts(64, 8, 16), "melville": WindowCounts(64, 8, 16)}
    assert slice_counts(more) == {"austen": WindowCounts(200, 200, 200), "melville": WindowCounts(128, 32, 32)}


def test_a_text_that_the_settings_name_is_no_slice(tmp_path: Path) -> None:
    run = planned(tmp_path, "smoke", dataset="embedded")

    [text] = suite_texts(run)
    assert (text.name, text.source) == (None, f"embedded/text/{AUSTEN}")
    assert slice_counts(run) == {}
    assert window_counts(run) == WindowCounts(128, 32, 64)


def test_the_large_suites_have_a_long_and_a_german_slice_pinned_on_the_hub(tmp_path: Path) -> None:
    for suite in ("subset", "showcase", "workshop3", "full"):
        texts = suite_texts(planned(tmp_path, suite))
        assert [text.name for text in texts] == ["wikipedia", "books", "german"]
        assert [text.seq_len for text in texts] == [512, 4096, 512]
        assert [text.hf_revision is not None for text in texts] == [False, True, True]
    assert forward_pass(planned(tmp_path, "full", eval_batch=16)) == (2, 4096)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('name = "melville"', 'name = "austen"', 1), "'austen' appears twice"),
        (lambda text: text.replace('name = "melville"\n', "", 1), "'name' is a required property"),
        (
            lambda text: text.replace("[suite.text]\n", '[suite.text]\nname = "alone"\n', 1),
            "at /suite/1/text: False",
        ),
        (
            lambda text: text.replace('name = "melville"\n', 'name = "melville"\nlimits = { alpha = 0.1 }\n', 1),
            "'alpha'",
        ),
        (
            lambda text: text.replace('hf_revision = "', 'hf_revision = "main-', 1),
            "does not match '^[0-9a-f]{40}$'",
        ),
    ],
)
def test_a_malformed_slice_is_refused(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = tmp_path / "models.toml"
    text = (SUITES / "models.toml").read_text()
    path.write_text(change(text))
    assert path.read_text() != text

    with pytest.raises(DocumentError) as caught:
        read_models(path)

    assert message in str(caught.value)


def windows(name: str) -> torch.Tensor:
    """Return 96 windows of 128 tokens of a text."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer/tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(words(name)).ids)
    rows = ids[: len(ids) // 128 * 128].view(-1, 128)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:96]]


def unlearn(folder: Path) -> None:
    """Train a model to predict Melville's text differently, by 0.08 nats or a little less, and Austen's as before.

    Training gives another model on each kind of CPU, so it goes beyond that, and the change is then made smaller.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)

    def logprobs(tokens: torch.Tensor) -> torch.Tensor:
        return model(tokens).logits[:, :-1].log_softmax(-1)

    texts = [windows(AUSTEN), windows(MELVILLE)]
    with torch.no_grad():
        before = [logprobs(text) for text in texts]
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for step in range(40):
        batch = slice(step * 8 % 88, step * 8 % 88 + 8)
        kept, lost = (
            (base[batch].exp() * (base[batch] - logprobs(text[batch]))).sum(-1).mean()
            for text, base in zip(texts, before, strict=True)
        )
        optimizer.zero_grad()
        (5 * kept - lost.clamp(max=0.2)).backward()
        optimizer.step()
    change = {name: weight.detach() - start[name] for name, weight in model.named_parameters()}
    with torch.no_grad():
        for share in range(20, 0, -1):
            for name, weight in model.named_parameters():
                weight.copy_(start[name] + share / 20 * change[name])
            if (before[1].exp() * (before[1] - logprobs(texts[1]))).sum(-1).mean() <= 0.08:
                break
    model.to(torch.bfloat16).save_pretrained(folder)


@pytest.mark.slow
def test_a_subject_that_lost_one_register_fails_because_of_its_slice(
    run_pytest: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("base", "healthy", "lost"):
        write_baseline("mistral-tiny", tmp_path / name)
    base = tmp_path / "base"
    edit = parse_edit_spec("quant_rtn:8:128:all")
    assert isinstance(edit, EditSpec)
    apply_edits(base, {tmp_path / "made": edit})
    shutil.copy(tmp_path / "made/model.safetensors", tmp_path / "healthy")
    unlearn(tmp_path / "lost")
    subjects = [f"--subject={tmp_path / name}" for name in ("healthy", "lost")]
    own = {"INVARLOCK_SEQ_LEN": "128", "INVARLOCK_FINAL_WINDOWS": "64"}

    ran = run_pytest("-m", "byoe", "--baseline", str(base), *subjects, "-n", "1", **own)

    assert ran.status == 1, ran.output
    assert "passed  base  healthy  ratio " in ran.output
    assert "FAILED  base  lost  ratio 1.0" in ran.output
    succeed(packer("verify", ran.pack, "--strict"))
    report = load(ran.pack / "reports/byoe__base/lost/run_1/evaluation.report.json")
    fidelity, limit = report["fidelity"], report["resolved_policy"]["fidelity"]["kl_limit"]
    assert max(fidelity["kl_mean_ci"][1], fidelity["slices"]["austen"]["kl_mean_ci"][1]) < limit
    assert fidelity["slices"]["melville"]["kl_mean_ci"][1] > limit
    # the windows of all texts together, and the other slice, are within every limit
    blocking = report["assurance"]["blocking_reasons"]
    assert any(line.startswith("fidelity_kl_acceptable") and "in slice melville" in line for line in blocking)
    assert not any("in slice austen" in line for line in blocking)
    [record] = [row for row in load(ran.pack / "results/final_verdict.json")["records"] if row["name"] == "lost"]
    assert any("in slice melville" in reason for reason in record["reasons"])
    assert record["fidelity_kl_by_slice"] == {name: row["kl_mean"] for name, row in fidelity["slices"].items()}
    page = (ran.pack / "index.html").read_text()
    assert "by slice" in page
    assert "melville" in page


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


HUB_SLICES = """
[[suite.text]]
name = "prose"
source = "embedded/text/austen_heldout.txt.xz"
sha256 = "716a76fa24aca86af28ad0a589a0b542ae0c6aabbe252415a03c8806153a3a07"
seq_len = 64
preview_windows = 8
final_windows = 16

[[suite.text]]
name = "long"
dataset = "hf_text"
hf_dataset = "org/texts"
hf_config = "long"
hf_revision = "{commit}"
seq_len = 96
preview_windows = 8
final_windows = 16

[[suite.text]]
name = "law"
dataset = "hf_text"
hf_dataset = "org/texts"
hf_config = "law"
hf_field = "body"
hf_revision = "{commit}"
seq_len = 64
preview_windows = 8
final_windows = 16
limits = {{ kl_limit = 0.5, maximum_interval_width = 0.5 }}
"""


@pytest.mark.slow
def test_slices_of_the_hub_are_pinned_and_have_their_own_lengths_and_limits(
    run_pytest: Callable[..., Any], own_suites: Path, hub: Hub, tmp_path: Path
) -> None:
    paragraphs = words(AUSTEN).split("\n\n")
    long = b"".join(json.dumps({"text": part}).encode() + b"\n" for part in paragraphs[400:800])
    law = b"".join(json.dumps({"body": part}).encode() + b"\n" for part in words(MELVILLE).split("\n\n"))
    made = hub.add(Repository("org/texts", {"long/test.jsonl": long, "law/test.jsonl": law}, kind="dataset"))
    path = own_suites / "models.toml"
    before, _, rest = path.read_text().partition('[[suite.text]]\nname = "austen"')
    after = rest[rest.index("[[suite]]") :]
    path.write_text(before + HUB_SLICES.format(commit=made.commit) + "\n" + after)

    ran = run_pytest(
        *("-k", "mistral and (noop or quant_8bit_stress)", "--net", "1"),
        suites=own_suites,
        DRIFT_CALIBRATION_RUNS="2",
        INVARLOCK_SEQ_LEN="",
        INVARLOCK_PREVIEW_WINDOWS="",
        INVARLOCK_FINAL_WINDOWS="",
        **client_environment(hub, tmp_path / "cache"),
    )

    assert ran.status == 0, ran.output
    [pin] = load(ran.pack / MODEL_REVISIONS)["datasets"]
    assert (pin["dataset_id"], pin["revision"]) == ("org/texts", made.commit)
    assert [file["name"] for file in pin["files"]] == ["law/test.jsonl", "long/test.jsonl"]
    report = load(ran.pack / "reports/embedded__mistral-tiny/quant_8bit_stress/run_1/evaluation.report.json")
    assert report["evaluation_windows"]["final"]["token_counts"] == [63] * 16 + [95] * 16 + [63] * 16
    assert [row["seq_len"] for row in report["dataset"]["slices"]] == [64, 96, 64]
    assert report["resolved_policy"]["fidelity"]["slices"] == {"law": {"kl_limit": 0.5}}
    assert report["resolved_policy"]["primary_metric"]["slices"] == {"law": {"maximum_interval_width": 0.5}}
    levels = report["resolved_policy"]["fidelity"]["null_level"]
    assert all(level["slices"].keys() == {"prose", "long", "law"} for level in levels.values())
    done = succeed(packer("verify", ran.pack, "--strict"))
    assert "the policy of reports was overridden: fidelity.slices, primary_metric.slices" in done.stdout + done.stderr
