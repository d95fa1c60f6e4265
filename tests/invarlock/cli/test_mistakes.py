"""Typical mistakes on the command line: each ends in its exit code and problem code before anything is measured."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from invarlock.packer.trust.keys import make_signing_key, write_key_pair

from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.cli import main, program
from invarlock.errors import InvarLockError
from invarlock.evaluation import needed_packages
from invarlock.problems import Code

ROOT = Path(__file__).parents[3]
EMBEDDED = ROOT / "suites" / "embedded"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1000\n"
HEX = f"sha256:{'0' * 64}"
EARLIER, LATER = "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"
# What would import PyTorch once nothing is wrong.
HALTED: Any = None
MEASURING = ("invarlock.evaluation.pair", "invarlock.evaluation.suite_tuning")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with whatever is right and wrong in the mistakes."""
    here = tmp_path_factory.mktemp("mistakes")
    good = here / "good"
    make_snapshot(EMBEDDED / "mistral-tiny", EMBEDDED / "tokenizer", good, None)
    for name, change in BROKEN.items():
        shutil.copytree(good, here / name)
        change(here / name)
    (here / "text.txt").write_text("It is a truth universally acknowledged. " * 3000)
    (here / "short.txt").write_text("too short")
    (here / "empty.txt").touch()
    (here / "binary.txt").write_bytes(bytes(range(256)) * 100)
    (here / "table.csv").write_text("a,b\n1,2\n")
    (here / "rows.jsonl").write_text('{"content": "x"}\n')
    (here / "exists").mkdir()
    (here / "file").touch()
    (here / "empty").mkdir()
    (here / "run" / "state").mkdir(parents=True)
    (here / "bad.json").write_text("{")
    (here / "list.json").write_text("[]")
    with zipfile.ZipFile(here / "pack.zip", "w") as archive:
        archive.writestr("manifest.json", "{}")
    write_key_pair(here / "key.pem", make_signing_key(), None)
    (here / "model.gguf").write_bytes(b"GGUF")
    return here


def _edit_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")


def _pickled_adapter(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    (folder / "adapter_model.bin").write_bytes(b"PK\x03\x04")


def _adapter_without_config(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.unlink()
    (folder / "adapter_model.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      ")


def _replace(name: str, data: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        # the file may be a link
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(data)

    return change


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


BROKEN: dict[str, Callable[[Path], None]] = {
    "no_config": lambda folder: (folder / "config.json").unlink(),
    "bad_config": _replace("config.json", b"{"),
    "pickle": _pickle_only,
    "pointer": _replace("model.safetensors", POINTER),
    "tokenizer_pointer": _replace("tokenizer.json", POINTER),
    "cut_off": lambda folder: os.truncate(folder / "model.safetensors", 100_000),
    "no_weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no_tokenizer": _no_tokenizer,
    "masked": _edit_config(architectures=["BertForMaskedLM"]),
    "encoder_decoder": _edit_config(is_encoder_decoder=True),
    "packed": _edit_config(quantization_config={"quant_method": "hqq"}),
    "adapter_next_to_it": _replace("adapter_config.json", b"{}"),
    "pickled_adapter": _pickled_adapter,
    "adapter_without_config": _adapter_without_config,
    "bad_metadata": _replace("edit_metadata.json", b"[]"),
}

EVALUATE = "evaluate --baseline {good} --subject {good} --text {text.txt} --output-dir {out} --seq-len 64"
SMALL = "--preview-windows 8 --final-windows 8"


def evaluate(**changes: str) -> str:
    """Return a command line of evaluate with other options than those that are right."""
    words = (EVALUATE + " " + SMALL).split()
    for name, value in changes.items():
        option = f"--{name.replace('_', '-')}"
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, *value.split()]
    return " ".join(words)


C = Code
MISTAKES: dict[str, tuple[str, int, Sequence[Code]]] = {
    "missing baseline": (evaluate(baseline="{none}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a model of the hub": (evaluate(baseline="Qwen/Qwen2-0.5B"), 2, [C.CHECKPOINT_UNUSABLE]),
    "missing subject": (evaluate(subject="{none}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "missing text": (evaluate(text="{none}"), 3, [C.FILE_MISSING]),
    "everything is missing": (
        evaluate(baseline="{none}", subject="{none2}", text="{none}"),
        2,
        [C.CHECKPOINT_UNUSABLE, C.CHECKPOINT_UNUSABLE, C.FILE_MISSING],
    ),
    "a file for the baseline": (evaluate(baseline="{file}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a folder without config.json": (evaluate(subject="{no_config}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "an empty folder": (evaluate(baseline="{empty}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a malformed config.json": (evaluate(subject="{bad_config}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a checkpoint of pickles alone": (evaluate(subject="{pickle}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a pointer of Git LFS": (evaluate(subject="{pointer}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a tokenizer that is a pointer of Git LFS": (
        evaluate(baseline="{tokenizer_pointer}"), 2, [C.CHECKPOINT_UNUSABLE],
    ),
    "a shard that is cut off": (evaluate(subject="{cut_off}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "no weights": (evaluate(subject="{no_weights}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a baseline without tokenizer": (evaluate(baseline="{no_tokenizer}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "a masked language model": (evaluate(subject="{masked}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "an encoder-decoder": (evaluate(subject="{encoder_decoder}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "an unreadable format": (evaluate(subject="{packed}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "baseline and subject swapped": (evaluate(baseline="{packed}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "an adapter next to a model": (evaluate(subject="{adapter_next_to_it}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "an adapter in a pickle": (evaluate(subject="{pickled_adapter}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "an adapter without its config": (evaluate(subject="{adapter_without_config}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "malformed metadata of the edit": (evaluate(subject="{bad_metadata}"), 2, [C.DOCUMENT_MALFORMED]),
    "a broken GGUF file": (evaluate(subject="{model.gguf}"), 2, [C.CHECKPOINT_UNUSABLE]),
    "an empty text": (evaluate(text="{empty.txt}"), 2, [C.TEXT_UNUSABLE]),
    "a text that is too short": (evaluate(text="{short.txt}"), 2, [C.TEXT_UNUSABLE]),
    "a binary text": (evaluate(text="{binary.txt}"), 2, [C.TEXT_UNUSABLE]),
    "a folder as text": (evaluate(text="{exists}"), 2, [C.TEXT_UNUSABLE]),
    "a table as text": (evaluate(text="{table.csv}"), 2, [C.TEXT_UNUSABLE]),
    "rows without the field": (evaluate(text="{rows.jsonl}"), 2, [C.TEXT_UNUSABLE]),
    "too many windows for the text": (evaluate(final_windows="5000"), 2, [C.TEXT_UNUSABLE]),
    "windows longer than positions": (
        evaluate(seq_len="100000"), 2, [C.SETTING_INVALID, C.TEXT_UNUSABLE],
    ),
    "an output folder that exists": (evaluate(output_dir="{exists}"), 2, [C.OUTPUT_EXISTS]),
    "an output folder below a file": (evaluate(output_dir="{file}/out"), 2, [C.OUTPUT_UNWRITABLE]),
    "an output folder that is not on a disk": (evaluate(output_dir="/proc/out"), 2, [C.OUTPUT_UNWRITABLE]),
    "a change that is none": (evaluate(expect="foo"), 2, [C.USAGE_INVALID]),
    "a window of one token": (evaluate(seq_len="1"), 2, [C.USAGE_INVALID]),
    "an attention that is not installed": (
        evaluate(attention="flash_attention_2"), 2, [C.EXTRA_NOT_INSTALLED],
    ),
    "a model signature of another form": (evaluate(model_signature="subject"), 2, [C.USAGE_INVALID]),
    "a model signature that is missing": (
        evaluate(model_signature="subject=key:{key.pub.pem}"), 2, [C.MODEL_SIGNATURE_MISSING],
    ),
    "an output folder that needs more disk": (evaluate(top_k="99999999"), 2, [C.OUTPUT_UNWRITABLE]),
    "an edit label with spaces": (evaluate(edit_label="{good}"), 2, [C.USAGE_INVALID]),
    "a preset that is missing": (evaluate(preset="{none}"), 2, [C.PRESET_UNUSABLE]),
    "a malformed preset": (evaluate(preset="{bad.json}"), 2, [C.DOCUMENT_MALFORMED]),
    "a baseline report that is missing": (evaluate(baseline_report="{none}"), 3, [C.FILE_MISSING]),
    "a baseline report of another kind": (evaluate(baseline_report="{list.json}"), 2, [C.DOCUMENT_MALFORMED]),
    "records that are missing": (evaluate(records="{none}"), 3, [C.FILE_MISSING]),
    "a number of samples without tasks": (evaluate(tasks_limit="3"), 2, [C.OPTIONS_CONFLICT]),
    "a field of a plain text": (evaluate(text_field="body"), 2, [C.OPTIONS_CONFLICT]),
    "an unknown tier": (evaluate(tier="balancd"), 2, []),
    "an unknown intent": (evaluate(intent="preserv"), 2, []),
    "an unknown profile": (evaluate(profile="devv"), 2, []),
    "an unknown device": (evaluate(device="gpu"), 2, []),
    "a window length of zero": (evaluate(seq_len="0"), 2, []),
    "an unknown option": (evaluate() + " --no-such-option", 2, []),
    "a misspelt option": (evaluate() + " --fnal-windows 8", 2, []),
    "no options": ("evaluate", 2, []),
    "an unknown command": ("evalute", 2, []),
    "tune: an unknown model": ("tune mistral --output {new.json}", 2, [C.INPUT_UNREADABLE]),
    "tune: a model without a pin": ("tune Qwen/Qwen2.5-14B --output {new.json}", 2, [C.PIN_UNUSABLE]),
    "tune: an unknown scope": ("tune {good} --scope mlp --output {new.json}", 2, [C.EDIT_SPEC_INVALID]),
    "tune: a folder as output": ("tune {good} --output {exists}", 2, [C.OUTPUT_UNWRITABLE]),
    "tune: a malformed output": ("tune {good} --output {bad.json}", 2, [C.DOCUMENT_MALFORMED]),
    "tune: no suites folder": ("tune {good} --suites {empty} --output {new.json}", 3, [C.FILE_MISSING]),
    "tune: a packed model": ("tune {packed} --output {new.json}", 2, [C.CHECKPOINT_UNUSABLE]),
    "tune: a margin above 1": ("tune {good} --margin 2 --output {new.json}", 2, []),
    "tune: an unknown edit": ("tune {good} --edit quant_rnt --output {new.json}", 2, []),
    "calibrate: no reports": ("calibrate {empty} --output {new.json}", 3, [C.FILE_MISSING]),
    "calibrate: an output that exists": ("calibrate {empty} --output {file}", 2, [C.OUTPUT_EXISTS]),
    "verify: no pack": ("verify {none} --json", 3, [C.PACK_MISSING]),
    "verify: an archive": ("verify {pack.zip} --json", 3, [C.PACK_MISSING]),
    "verify: a folder that is no pack": ("verify {empty} --json", 3, [C.PACK_MISSING]),
    "verify: no report and no pack": ("verify {none} {list.json} --json", 3, [C.FILE_MISSING]),
    "verify: a document of another kind": ("verify {list.json} --json", 7, [C.REPORT_MALFORMED]),
    "verify: an option of packs for a report": ("verify {list.json} --strict", 2, [C.OPTIONS_CONFLICT]),
    "verify: a fingerprint that is none": ("verify {run} --expected-fingerprint abc", 2, [C.FINGERPRINT_MALFORMED]),
    "verify: a time that is none": ("verify {run} --at yesterday", 2, [C.TIME_MALFORMED]),
    "inspect: a file": ("inspect {file}", 3, [C.PACK_MISSING]),
    "diff: packs that are missing": ("diff {none} {none2} --json", 3, [C.PACK_MISSING]),
    "sign: no key": ("sign {run} --signing-key {none}", 3, [C.KEY_MISSING]),
    "sign: a key that is none": ("sign {run} --signing-key {text.txt}", 2, [C.KEY_MALFORMED]),
    "sign: the public half": ("sign {run} --signing-key {key.pub.pem}", 2, [C.KEY_MALFORMED]),
    "keygen: a key that exists": ("keygen {key}", 2, [C.OUTPUT_EXISTS]),
    "keygen: a passphrase that is not set": ("keygen {new} --passphrase-env NO_SUCH", 2, [C.PASSPHRASE_UNUSABLE]),
    "trust: a store that is missing": ("trust list --trust-store {none}", 3, [C.FILE_MISSING]),
    "trust: a malformed store": ("trust list --trust-store {bad.json}", 2, [C.TRUST_STORE_MALFORMED]),
    "trust: a signer that is none": ("trust add abc --trust-store {new.json}", 2, [C.INPUT_UNREADABLE]),
    "trust: times the wrong way round": (
        f"trust add {HEX} --not-before {LATER} --not-after {EARLIER} --trust-store {{new.json}}", 2,
        [C.OPTIONS_CONFLICT],
    ),
    "merge: no run directories": ("merge {empty} --output {new} --unsigned", 3, [C.SHARD_INCOMPLETE]),
    "build: no reports": ("build {new} --final-verdict {none} --report {none}", 2, [C.BUILD_INPUT_UNUSABLE]),
    "records: results that are missing": (
        "records import --baseline {none} --subject {none} --output {new.json}", 3, [C.FILE_MISSING],
    ),
    "problems: an unknown code": ("problems checksum", 2, [C.USAGE_INVALID]),
}  # fmt: skip


def words(line: str, here: Path) -> list[str]:
    """Return the words of a command line, each name in braces as a path in the folder."""
    return [re.sub(r"\{([^}]+)\}", lambda name: str(here / name[1]), word) for word in line.split()]


def end(given: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[Code]]:
    """Return the exit code of a command and the codes of the problems it found."""
    capsys.readouterr()
    try:
        code = program.run(given)
    except InvarLockError as error:
        return int(error.exit_code), [problem.code for problem in error.problems]
    except SystemExit as stop:
        return int(stop.code or 0), []
    document = json.loads(capsys.readouterr().out)
    rows = document.get("errors") or [row for one in document["results"] for row in one["problems"]]
    known = {one.value: one for one in Code}
    return code, [known[row["code"]] for row in rows]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_before_anything_is_measured(
    here: Path, mistake: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, exit_code, codes = MISTAKES[mistake]
    for name in MEASURING:
        monkeypatch.setitem(sys.modules, name, HALTED)
    before = sorted(path.name for path in here.iterdir())

    found = end(words(line, here), capsys)

    assert found == (exit_code, list(codes))
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    ("package", "options"),
    [("model_signing", {"model_signature": "subject=key:{key.pub.pem}"}), ("lm_eval", {"tasks": "arc_easy"})],
)
def test_an_option_that_needs_a_package_says_so_before_anything_is_measured(
    here: Path,
    package: str,
    options: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in MEASURING:
        monkeypatch.setitem(sys.modules, name, HALTED)
    monkeypatch.setattr(needed_packages, "find_spec", lambda name: None if name == package else find_spec(name))
    (here / "good" / "model.sig").touch()

    try:
        found = end(words(evaluate(**options), here), capsys)
    finally:
        (here / "good" / "model.sig").unlink()

    assert found == (2, [C.EXTRA_NOT_INSTALLED])


def test_there_are_sixty_mistakes() -> None:
    assert len(MISTAKES) >= 60


def test_correct_input_is_not_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in MEASURING:
        monkeypatch.setitem(sys.modules, name, HALTED)

    # measuring would begin here
    for line in (evaluate(), "tune {good} --output {new.json}", "tune embedded/mistral-tiny --output {new.json}"):
        with pytest.raises(ImportError):
            program.run(words(line, here))
    # what it will cost is printed before PyTorch is imported
    assert re.match(r"estimate: about \d+ s, [0-9.]+ [GM]B of memory, [0-9.]+ [GM]B of disk", capsys.readouterr().err)


@pytest.mark.parametrize("mistake", ["everything is missing", "a text that is too short", "tune: a packed model"])
def test_pytorch_is_not_imported_for_it(here: Path, mistake: str) -> None:
    line, exit_code, codes = MISTAKES[mistake]
    code = (
        "import sys\nfrom invarlock.cli import main\n"
        "code = main(sys.argv[1:])\nprint(code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, *words(line, here)], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert done.stdout == f"{exit_code} []\n"
    assert [row.startswith("error: ") for row in done.stderr.splitlines()] == [True] * len(codes)


def test_all_problems_are_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(MISTAKES["everything is missing"][0], here)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    ("mistake", "words_of_it"),
    [
        ("a pointer of Git LFS", "git lfs pull"),
        ("a checkpoint of pickles alone", "pytorch_model.bin"),
        ("a model of the hub", "download it first: hf download Qwen/Qwen2-0.5B --local-dir Qwen2-0.5B"),
        ("an output folder that is not on a disk", "/proc/out cannot be written"),
        ("a change that is none", "--expect: 'foo' is not a structural change; write vocabulary+8"),
        ("a window of one token", "--seq-len must be at least 2"),
        ("an attention that is not installed", "install flash-attn, or leave --attention out"),
        ("an empty text", "empty.txt: the file is empty"),
        ("an unknown tier", "did you mean balanced?"),
        ("no options", "invarlock evaluate --help"),
        ("an unknown option", "invarlock evaluate --help"),
        ("a misspelt option", "did you mean --final-windows?"),
    ],
)
def test_the_line_says_what_to_do(
    here: Path, capsys: pytest.CaptureFixture[str], mistake: str, words_of_it: str
) -> None:
    given = words(MISTAKES[mistake][0], here)
    try:
        code = main(given)
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr().err.splitlines()

    assert (code, len(said), words_of_it in said[0]) == (2, 1, True), said
