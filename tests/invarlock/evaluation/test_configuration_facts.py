"""What is read of a checkpoint's configuration, from real files: those of tools, and edited ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shipped_checkpoints import EMBEDDED, baseline_of, names, restore, write_baseline
from tokenizers import Tokenizer

from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.errors import CheckpointError
from invarlock.evaluation.comparison import draw_runs
from invarlock.evaluation.configuration_facts import configuration_facts
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.text_files import read_local_text
from invarlock.evaluation.tokenizer_facts import subject_tokenizer_facts, tokenizer_facts
from invarlock.guards.configuration import configuration_violations
from invarlock.measuring.invariants import vocabulary_digest

SEQ_LEN = 64
PLAN = WindowPlan(seq_len=SEQ_LEN, preview=4, final=8, seed=0, batch_size=4)


TEXT = read_local_text(EMBEDDED / "text/austen_heldout.txt.xz")
SOME_TEXT = SourceText(TEXT.provider, TEXT.text[:20_000], TEXT.sha256)


def findings(subject: Path, baseline: Path) -> list[dict[str, str]]:
    """Return what the guard says of the configuration of a subject's files."""
    draw = draw_runs(baseline, SOME_TEXT, PLAN, [1])[1]
    own = tokenizer_facts(baseline)
    known: dict[str, Any] = {
        "vocabulary_sha256": vocabulary_digest(own.vocabulary),
        "added_special_tokens": None,
        "configuration": configuration_facts(open_checkpoint(baseline).files, own),
    }
    theirs = subject_tokenizer_facts(subject, baseline, known, draw)
    facts = {
        "vocabulary_sha256": vocabulary_digest(theirs.vocabulary),
        "added_special_tokens": theirs.added_special,
        "configuration": configuration_facts(open_checkpoint(subject, baseline).files, theirs),
    }
    return list(configuration_violations(known, facts, SEQ_LEN))


@pytest.mark.parametrize("name", names())
def test_no_tool_changes_what_is_computed(name: str, tmp_path: Path) -> None:
    baseline, subject = write_baseline(baseline_of(name), tmp_path / "baseline"), restore(name, tmp_path / "subject")
    for source in (EMBEDDED / "tokenizer").iterdir():  # the library's class splits texts in another way
        shutil.copyfile(source, subject / source.name)

    assert findings(subject, baseline) == []


def test_a_tokenizer_that_a_library_wrote_anew_is_reported_for_what_it_splits(tmp_path: Path) -> None:
    baseline, subject = write_baseline("qwen2-tiny", tmp_path / "baseline"), restore("gptq", tmp_path / "subject")

    found = findings(subject, baseline)

    assert {row["tensor"] for row in found} == {"tokenizer"}
    assert {row["reason"].split()[0] for row in found} >= {"normalizer", "pre"}


def config(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))

    return edit


def generation(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / "generation_config.json").write_text(json.dumps(fields))

    return edit


def swap_two_merges(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_bytes())
    merges = document["model"]["merges"]
    merges[0], merges[200] = merges[200], merges[0]
    path.write_text(json.dumps(document))


def lower_case(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "normalizer": {"type": "Lowercase"}}))


def chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


@pytest.mark.parametrize(
    ("edit", "where", "severity", "start"),
    [
        (
            config(rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
            "config.json",
            "fail",
            "rope_parameters.",
        ),
        (config(rms_norm_eps=1e-3), "config.json", "fail", "rms_norm_eps is 0.001, in the baseline 1e-06"),
        (config(hidden_act="gelu"), "config.json", "fail", "hidden_act is gelu, in the baseline silu"),
        (config(sliding_window=16), "config.json", "fail", "sliding_window is 16, in the baseline not set"),
        (config(sliding_window=4096), "config.json", "warn", "sliding_window is 4096, in the baseline not set"),
        (config(eos_token_id=7), "config.json", "warn", "eos_token_id is 7, in the baseline not set"),
        (config(max_position_embeddings=512), "config.json", "warn", "max_position_embeddings is 512"),
        (config(made_up=[1, 2]), "config.json", "warn", "made_up is [1, 2], in the baseline not set"),
        (generation(temperature=0.5), "generation_config.json", "warn", "temperature is 0.5"),
        (swap_two_merges, "tokenizer", "fail", "it gives the scored text other ids"),
        (lower_case, "tokenizer", "fail", "it gives the scored text other ids"),
        (chat_template, "chat template", "warn", "the template "),
    ],
)
def test_each_change_that_matters_is_named(
    edit: Callable[[Path], None], where: str, severity: str, start: str, tmp_path: Path
) -> None:
    baseline, subject = (
        write_baseline("mistral-tiny", tmp_path / "baseline"),
        write_baseline("mistral-tiny", tmp_path / "subject"),
    )
    edit(subject)

    found = findings(subject, baseline)

    assert found[0]["tensor"] == where
    assert found[0]["severity"] == severity
    assert found[0]["reason"].startswith(start)


@pytest.mark.parametrize(
    "edit",
    [
        config(torch_dtype="float16", transformers_version="4.0.0", _name_or_path="/home/x", use_cache=False),
        config(attention_dropout=0.1, initializer_range=0.5, pad_token_id=3, unsloth_version="1"),
        config(rope_theta=10000.0, rope_parameters=None, rope_scaling=None),
        config(head_dim=None, hidden_act="silu"),
        generation(_from_model_config=True, transformers_version="5.0.0", do_sample=False, temperature=1.0),
    ],
)
def test_storage_and_another_spelling_are_no_findings(edit: Callable[[Path], None], tmp_path: Path) -> None:
    baseline, subject = (
        write_baseline("mistral-tiny", tmp_path / "baseline"),
        write_baseline("mistral-tiny", tmp_path / "subject"),
    )
    edit(subject)

    assert findings(subject, baseline) == []


def test_a_generation_config_that_is_broken_is_one_line(tmp_path: Path) -> None:
    subject = write_baseline("mistral-tiny", tmp_path / "subject")
    (subject / "generation_config.json").write_text("[1]")

    with pytest.raises(CheckpointError, match=r"generation_config\.json: no table"):
        configuration_facts(open_checkpoint(subject).files, None)


def test_long_and_odd_values_are_kept_short(tmp_path: Path) -> None:
    subject = write_baseline("mistral-tiny", tmp_path / "subject")
    config(long=list(range(1000)), odd="a\u202eb\x00", table={"inner": {"value": 1}})(subject)

    fields = configuration_facts(open_checkpoint(subject).files, None)["config"]

    assert len(str(fields["long"])) <= 200
    assert fields["odd"] == "a\\u202eb\\x00"
    assert fields["table.inner.value"] == 1


def test_the_embedded_tokenizer_is_the_same_after_it_is_saved(tmp_path: Path) -> None:
    baseline, subject = (
        write_baseline("mistral-tiny", tmp_path / "baseline"),
        write_baseline("mistral-tiny", tmp_path / "subject"),
    )
    Tokenizer.from_file(str(subject / "tokenizer.json")).save(str(subject / "tokenizer.json"), pretty=False)

    assert findings(subject, baseline) == []
