import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from invarlock.errors import EvaluationError
from invarlock.evaluation.comparison import draw_runs
from invarlock.evaluation.measurements import WindowPlan
from invarlock.evaluation.text import SourceText
from invarlock.evaluation.text_files import read_local_text
from invarlock.evaluation.tokenization import load_tokenizer, prefix_token_ids, text_token_ids
from invarlock.evaluation.tokenizer_facts import TokenizerFacts, subject_tokenizer_facts
from invarlock.problems import Code

EMBEDDED = Path(__file__).parents[3] / "suites/embedded"
BOS, EOS = 900, 901


def tokenizer_folder(folder: Path, template: str | None, **config: object) -> Path:
    """Make a folder with the embedded tokenizer, a template that adds special tokens, and config entries."""
    folder.mkdir()
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer/tokenizer.json"))
    names = {"BOS": tokenizer.id_to_token(BOS), "EOS": tokenizer.id_to_token(EOS)}
    if template is not None:
        special = [("BOS", BOS), ("EOS", EOS)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    document = json.loads((EMBEDDED / "tokenizer/tokenizer_config.json").read_bytes())
    document |= {"bos_token": names["BOS"], "eos_token": names["EOS"], **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(document))
    shutil.copy(EMBEDDED / "mistral-tiny/config.json", folder)
    return folder


@pytest.mark.parametrize(
    ("template", "config", "expected"),
    [
        (None, {}, ()),
        ("$A EOS", {}, ()),
        ("BOS $A", {}, (BOS,)),
        ("BOS $A EOS", {}, (BOS,)),
        ("BOS EOS $A", {}, (BOS, EOS)),
        # as in the library: where there is a tokenizer.json, its template decides
        (None, {"add_bos_token": True}, ()),
        ("BOS $A", {"add_bos_token": False}, (BOS,)),
    ],
)
def test_the_prefix_of_a_text_is_found_by_encoding(
    tmp_path: Path, template: str | None, config: dict[str, object], expected: tuple[int, ...]
) -> None:
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path / "model", template, **config))

    assert prefix_token_ids(tokenizer) == expected
    assert text_token_ids(tokenizer, "It is a truth")[0] != BOS


def test_every_window_begins_with_the_prefix_and_none_ends_with_what_the_tokenizer_appends(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model", "BOS $A EOS")
    text = SourceText("local_text", "It is a truth universally acknowledged, " * 20 + "x" * 300, "sha256:0")
    plan = WindowPlan(seq_len=16, preview=2, final=3, seed=0, batch_size=4)

    draw = draw_runs(folder, text, plan, [1])[1]

    tokens = [*draw.preview.tokens.tolist(), *draw.final.tokens.tolist()]
    assert draw.prefix == (BOS,)
    assert {len(window) for window in tokens} == {16}
    assert {window[0] for window in tokens} == {BOS}
    assert not {BOS, EOS} & {token for window in tokens for token in window[1:]}


def test_a_tokenizer_that_is_broken_is_one_line(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model", None)
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 7}}')

    with pytest.raises(EvaluationError, match=r"^the tokenizer of model cannot be loaded \(") as raised:
        load_tokenizer(folder)

    assert "\n" not in str(raised.value)
    assert raised.value.code is Code.TOKENIZER_UNUSABLE


def test_a_sentencepiece_model_alone_says_what_to_install(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "model", None)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')

    with pytest.raises(EvaluationError, match="pip install sentencepiece"):
        load_tokenizer(folder)


def test_a_pattern_that_backtracks_without_end_is_an_error_and_no_panic(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=Regex(r"(?:x+x+)+y"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(folder)

    with pytest.raises(EvaluationError, match=r"^the tokenizer fails on the text \(Onig"):
        text_token_ids(loaded, "x" * 60)


def test_special_tokens_beyond_the_baselines_are_counted_and_others_are_not(tmp_path: Path) -> None:
    embedded = tokenizer_folder(tmp_path / "baseline", None)
    text = read_local_text(EMBEDDED / "text/austen_heldout.txt.xz")
    draw = draw_runs(embedded, text, WindowPlan(seq_len=32, preview=2, final=4, seed=0, batch_size=4), [1])[1]

    def saved_with(*tokens: str, special: bool = True) -> TokenizerFacts:
        tokenizer = load_tokenizer(embedded)
        tokenizer.add_tokens(list(tokens), special_tokens=special)
        folder = tmp_path / f"{'-'.join(tokens)}-{special}"
        tokenizer.save_pretrained(folder)
        known = {"vocabulary_sha256": "0" * 64, "configuration": {"tokenizer": None}}
        return subject_tokenizer_facts(folder, embedded, known, draw)

    assert saved_with("<pad>", "<extra>").added_special == 2
    assert saved_with("zebra", special=False).added_special is None
    # a token of the text itself: every text has other ids with it
    assert saved_with(" t").added_special is None
    moved = {"a": 1, "b": 0}
    assert not TokenizerFacts(moved, ()).extends(TokenizerFacts({"a": 0, "b": 1}, ()))
