"""What is read of a checkpoint's configuration, from real files: those of tools, and edited ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import rewrite, special_vocabulary
from shipped_checkpoints import EMBEDDED, baseline_of, names, restore, write_baseline
from tokenizers import Tokenizer

from invarlock.checkpoints.layout import find_gguf
from invarlock.checkpoints.storage_format import open_checkpoint
from invarlock.errors import CheckpointError
from invarlock.evaluation.comparison import draw_runs
from invarlock.evaluation.configuration_facts import configuration_facts
from invarlock.evaluation.gguf_tokenizer import facts_of_metadata, facts_with_metadata
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.text_files import read_local_text
from invarlock.evaluation.tokenization import load_tokenizer
from invarlock.evaluation.tokenizer_facts import TokenizerFacts, subject_tokenizer_facts, tokenizer_facts
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
    found = subject_tokenizer_facts(baseline if find_gguf(subject) else subject, baseline, known, draw)
    theirs = facts_with_metadata(found, subject, baseline, draw)
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


TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
MERGES = "tokenizer.ggml.merges"


def with_tokens(folder: Path, *, template: str | None = None, added: bool = True, **tokenizer_config: Any) -> Path:
    """Give a model's tokenizer a BOS and an EOS, a template of the given kind, and other fields of its config."""
    document = json.loads((folder / "tokenizer.json").read_bytes())
    if added:
        document["added_tokens"] = [
            {"id": number, "content": document_token(document, number), "special": True, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}
            for number in (1, 2)
        ]  # fmt: skip
    if template is not None:
        names = [document_token(document, 1), document_token(document, 2)]
        pieces = [{"Sequence": {"id": "A", "type_id": 0}}]
        if template.startswith("BOS"):
            pieces = [{"SpecialToken": {"id": names[0], "type_id": 0}}, *pieces]
        if template.startswith("BOS EOS"):
            pieces = [{"SpecialToken": {"id": names[1], "type_id": 0}}, *pieces]
        if template.endswith("text EOS"):
            pieces = [*pieces, {"SpecialToken": {"id": names[1], "type_id": 0}}]
        tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for number, name in enumerate(names, 1)}
        document["post_processor"] = {
            "type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": tokens,
        }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(document))
    config_path = folder / "tokenizer_config.json"
    stated = {**json.loads(config_path.read_bytes()), **tokenizer_config}
    if added:
        stated |= {"bos_token": document_token(document, 1), "eos_token": document_token(document, 2)}
    config_path.write_text(json.dumps(stated))
    return folder


def document_token(document: dict[str, Any], number: int) -> str:
    return str(next(token for token, one in document["model"]["vocab"].items() if one == number))


def gguf_facts(
    baseline: Path, metadata: dict[str, Any], text: str = SOME_TEXT.text[:5000]
) -> tuple[TokenizerFacts, TokenizerFacts]:
    """Return the facts of a baseline's tokenizer, and of the metadata of a GGUF file made from it."""
    own, tokenizer = tokenizer_facts(baseline), load_tokenizer(baseline)
    tokens = sorted(own.vocabulary, key=lambda token: own.vocabulary[token])
    whole = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    whole |= metadata
    return own, facts_of_metadata(own, whole, tokenizer, baseline, text)


CONVERTED: list[dict[str, Any]] = [
    {"added": False},
    {},
    {"template": "text"},
    {"template": "BOS text"},
    {"template": "BOS text EOS"},
    {"template": "text EOS"},
    # two tokens before a text, as in GLM-4, cannot be stored in GGUF
    {"template": "BOS EOS text"},
    # the flag of the config contradicts the template, and the converter copies it
    {"template": "BOS text", "add_bos_token": False},
    {"template": "text", "add_bos_token": True},
    {"add_bos_token": False, "chat_template": TEMPLATE},
    {"chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "tools", "template": "other"}]},
]


@pytest.mark.parametrize("fields", CONVERTED)
def test_what_the_converter_writes_of_a_tokenizer_is_no_difference(fields: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    baseline = with_tokens(write_baseline("mistral-tiny", tmp_path / "baseline"), **fields)

    own, found = gguf_facts(baseline, special_vocabulary(baseline))

    assert found == own


def test_ids_of_the_config_are_ids_of_the_baseline(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")
    config(bos_token_id=7, eos_token_id=[5, 9])(baseline)
    (baseline / "generation_config.json").write_text(json.dumps({"eos_token_id": 11}))

    for number in (5, 9, 11):
        stated = {**special_vocabulary(baseline), "tokenizer.ggml.eos_token_id": number}
        own, found = gguf_facts(baseline, stated)
        assert found == own


def halved(merges: list[str]) -> list[str]:
    return merges[: len(merges) // 2]


def test_other_merges_change_the_text_or_warn(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")
    merges = special_vocabulary(baseline)[MERGES]

    _, half = gguf_facts(baseline, {MERGES: halved(merges)})
    _, none = gguf_facts(baseline, {})
    own, odd = gguf_facts(baseline, {MERGES: [*merges, "! !", "nothing", "x y z"]})

    assert (half.text_as_baseline, none.text_as_baseline, odd.text_as_baseline) == (False, False, True)
    assert own.parts is not None
    assert odd.parts is not None
    assert {name for name in own.parts if own.parts[name] != odd.parts[name]} == {"merges"}


def test_merges_with_spaces_are_compared_as_the_converter_writes_them(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")
    document = json.loads((baseline / "tokenizer.json").read_bytes())
    document["model"]["vocab"] |= {" ": 1024, "e ": 1025}
    document["model"]["merges"].append(["e", " "])
    (baseline / "tokenizer.json").write_text(json.dumps(document))

    own, found = gguf_facts(baseline, special_vocabulary(baseline))

    assert found == own


def test_other_rules_of_splitting_change_the_text_or_warn(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")
    whole = special_vocabulary(baseline)

    found = {
        (name, text): gguf_facts(baseline, whole | {"tokenizer.ggml.pre": name}, text)
        for name in ("gpt-2", "falcon", "poro-chat", "default", None, "unheard-of")
        for text in (SOME_TEXT.text[:5000], "Emma")
    }

    same = {key: subject.text_as_baseline for key, (_, subject) in found.items()}
    parts = {
        key: {name for name in own.parts if own.parts[name] != subject.parts[name]}
        for key, (own, subject) in found.items()
        if own.parts is not None and subject.parts is not None
    }
    others = ("falcon", "default", None)
    assert {name for (name, text), alike in same.items() if text != "Emma" and not alike} == {*others, "poro-chat"}
    assert all(alike for (_, text), alike in same.items() if text == "Emma")
    assert {key for key, changed in parts.items() if changed} == {
        *((name, text) for name in others for text in (SOME_TEXT.text[:5000], "Emma")),
        ("poro-chat", SOME_TEXT.text[:5000]),
    }
    assert {frozenset(changed) for changed in parts.values()} == {frozenset(), frozenset({"pre_tokenizer"})}


def test_a_tokenizer_of_pieces_does_not_split_bytes(tmp_path: Path) -> None:
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")
    pytest.importorskip("gguf")
    stated = {"tokenizer.ggml.model": "llama", **special_vocabulary(baseline)}

    _, pieces = gguf_facts(baseline, stated)
    (baseline / "tokenizer.model").write_bytes(b"")
    _, with_model = gguf_facts(baseline, stated)
    (baseline / "tokenizer.model").unlink()
    document = json.loads((baseline / "tokenizer.json").read_bytes())
    document["decoder"] = {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}
    (baseline / "tokenizer.json").write_text(json.dumps(document))
    _, of_pieces = gguf_facts(baseline, stated)

    assert (pieces.text_as_baseline, with_model.text_as_baseline, of_pieces.text_as_baseline) == (False, True, True)


def test_a_text_that_begins_or_ends_with_another_token_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    plain = with_tokens(write_baseline("mistral-tiny", tmp_path / "plain"))
    begun = with_tokens(write_baseline("mistral-tiny", tmp_path / "begun"), template="BOS text")
    flagged = with_tokens(write_baseline("mistral-tiny", tmp_path / "flagged"), template="BOS text", add_bos_token=True)
    ids = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}

    def prefix(baseline: Path, **stated: Any) -> tuple[int, ...]:
        metadata = {f"tokenizer.ggml.{key}": value for key, value in stated.items()}
        return gguf_facts(baseline, {**special_vocabulary(baseline), **ids, **metadata})[1].prefix

    assert prefix(plain, add_bos_token=True) == (1,)
    assert prefix(plain, add_bos_token=True, bos_token_id=7) == (7,)
    assert prefix(begun, add_bos_token=False) == ()
    assert prefix(begun, bos_token_id=7) == (7,)
    assert prefix(flagged, bos_token_id=7) == (7,)
    assert prefix(flagged) == prefix(begun) == (1,)
    ends = {**special_vocabulary(plain), "tokenizer.ggml.add_eos_token": True}
    assert gguf_facts(plain, ends)[1].suffix == (2,)


def test_special_tokens_and_templates_of_a_gguf_file_warn_as_those_of_a_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    baseline = with_tokens(write_baseline("mistral-tiny", tmp_path / "baseline"), chat_template=TEMPLATE)
    stated = special_vocabulary(baseline)
    assert stated["tokenizer.ggml.eos_token_id"] == 2

    own, other = gguf_facts(baseline, stated | {"tokenizer.ggml.eos_token_id": 5, "tokenizer.chat_template": "{{ 1 }}"})
    _, without = gguf_facts(
        baseline, {key: stated[key] for key in stated if key not in ("tokenizer.ggml.eos_token_id",)}
    )
    _, beyond = gguf_facts(baseline, stated | {"tokenizer.ggml.eos_token_id": 5000})
    _, silent = gguf_facts(baseline, {key: stated[key] for key in stated if key != "tokenizer.chat_template"})

    assert other.special_names == {**own.special_names, "eos_token": "&"}
    # llama.cpp ends a text with token 11 if a file of this kind names none, or one that does not exist
    assert without.special_names == beyond.special_names == {**own.special_names, "eos_token": ","}
    assert other.chat_template not in (None, own.chat_template)
    assert silent.chat_template is None
    assert (other.text_as_baseline, other.prefix) == (True, own.prefix)


def test_a_damaged_tokenizer_of_a_gguf_file_is_found_in_the_file(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    baseline = write_baseline("mistral-tiny", tmp_path / "baseline")
    path = restore("gguf-q4_0", tmp_path / "subject") / "model.gguf"
    merges = gguf.GGUFReader(path).fields[MERGES].contents()

    rewrite(path, metadata={MERGES: halved(merges), "tokenizer.chat_template": TEMPLATE})
    found = findings(path, baseline)

    assert [(row["tensor"], row["severity"]) for row in found] == [
        ("tokenizer", "fail"), ("tokenizer", "warn"), ("chat template", "warn"),
    ]  # fmt: skip
    assert found[0]["reason"] == "it gives the scored text other ids than the baseline's"
