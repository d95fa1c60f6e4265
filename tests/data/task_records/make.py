"""Make the files of this folder with the tools themselves: lm-evaluation-harness and Inspect AI.

    python tests/data/task_records/make.py lm_eval      # in an environment with torch and lm_eval[hf]
    python tests/data/task_records/make.py inspect      # in an environment with inspect_ai

Both need no network. lm-evaluation-harness runs an embedded model (the baseline) and one whose FFN weights are rounded
to 3 bits (the subject) on two small tasks made from the embedded text. Inspect AI runs its own ``mockllm`` model, whose
answers are given. ``PROVENANCE.md`` says which versions made the files.
"""

from __future__ import annotations

import json
import lzma
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EMBEDDED = Path(__file__).parents[3] / "suites" / "embedded"
SAMPLES = 40
SIDES = ("baseline", "subject")

CHOICE = """\
task: next_words
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
WRITING = """\
task: next_word
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{word}}}}"
generation_kwargs:
  until: ["\\n", "."]
  max_gen_toks: 6
  do_sample: false
filter_list:
  - name: first-word
    filter:
      - function: regex
        regex_pattern: "([A-Za-z]+)"
      - function: take_first
  - name: whole
    filter:
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
metadata:
  version: 1.0
"""


def documents() -> list[dict[str, Any]]:
    """Return questions about the embedded text: how does a passage go on?"""
    text = lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes()).decode()
    words = re.sub(r"\s+", " ", text[20_000:200_000]).split(" ")
    rng = random.Random(20261128)
    found = []
    for _ in range(SAMPLES):
        start = rng.randrange(len(words) - 40)
        right = " ".join(words[start + 24 : start + 28])
        others = [" ".join(words[at : at + 4]) for at in (rng.randrange(len(words) - 8) for _ in range(3))]
        label = rng.randrange(4)
        choices = [*others[:label], right, *others[label:]]
        context = " ".join(words[start : start + 24])
        word = re.sub(r"[^A-Za-z]", "", words[start + 24])
        found.append({"context": context, "choices": choices, "label": label, "word": word})
    return found


def write_models(folder: Path) -> None:
    """Write the baseline, and the subject: its FFN weights rounded to 3 bits, one scale a row."""
    import torch
    from safetensors.torch import load_file, save_file

    for side in SIDES:
        shutil.copytree(EMBEDDED / "mistral-tiny", folder / side)
        for source in (EMBEDDED / "tokenizer").iterdir():
            shutil.copyfile(source, folder / side / source.name)
        # the harness begins and ends texts with tokens that the embedded tokenizer gives no role
        config = folder / side / "tokenizer_config.json"
        roles = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "~")
        config.write_text(json.dumps({**json.loads(config.read_bytes()), **roles}))
    path = folder / "subject" / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ".mlp." in name:
            scale = tensor.float().abs().amax(1, keepdim=True) / 3.5
            tensors[name] = (torch.clamp((tensor.float() / scale).round(), -4, 3) * scale).to(tensor.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def make_lm_eval() -> None:
    """Run lm-evaluation-harness on both sides and keep its files of samples."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from lm_eval.__main__ import cli_evaluate

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["HF_HOME"] = str(folder / "cache")
        write_models(folder)
        data = folder / "data.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in documents()))
        (folder / "tasks").mkdir()
        for name, task in (("choice", CHOICE), ("writing", WRITING)):
            (folder / "tasks" / f"{name}.yaml").write_text(task.format(data=data))
        for side in SIDES:
            sys.argv = [
                "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={folder / side},dtype=float32",
                "--tasks", "next_words,next_word", "--include_path", str(folder / "tasks"), "--device", "cpu",
                "--batch_size", "8", "--output_path", str(folder / "out" / side), "--log_samples",
            ]  # fmt: skip
            cli_evaluate()
            target = HERE / "lm_eval" / side
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for path in sorted((folder / "out" / side).rglob("samples_*.jsonl")):
                # the tool puts the time into the name
                (target / f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))


def make_inspect() -> None:
    """Run Inspect AI with given answers on both sides, and keep a log of each format."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, Target, includes, mean, scorer
    from inspect_ai.solver import TaskState, generate

    @scorer(metrics=[mean()])
    def closeness():  # type: ignore[no-untyped-def]
        async def score(state: TaskState, target: Target) -> Score:
            given, wanted = set(state.output.completion), set(target.text)
            return Score(value=len(given & wanted) / len(given | wanted), answer=state.output.completion)

        return score

    rows = [(str(number), f"What is {number} times 7?", str(7 * number)) for number in range(1, SAMPLES + 1)]
    samples = [Sample(id=name, input=question, target=answer) for name, question, answer in rows]
    wrong = {"baseline": {3, 8, 21}, "subject": {3, 5, 13, 21, 22, 34, 39}}
    for side, suffix, form in (
        ("baseline", "json", "json"), ("subject", "json", "json"), ("baseline", "eval", "eval"),
        ("subject", "eval", "eval"),
    ):  # fmt: skip
        answers = [
            "it is unknown" if number in wrong[side] else f"it is {7 * number}" for number in range(1, SAMPLES + 1)
        ]
        outputs = [ModelOutput.from_content("mockllm/model", answer) for answer in answers]
        for output in outputs:
            output.usage = ModelUsage(input_tokens=6, output_tokens=3, total_tokens=9)  # else it fetches a tokenizer
        task = Task(dataset=MemoryDataset(samples), solver=generate(), scorer=[includes(), closeness()], name="sevens")
        with tempfile.TemporaryDirectory() as scratch:
            model = get_model("mockllm/model", custom_outputs=outputs)
            eval(task, model=model, log_dir=scratch, log_format=form, max_samples=1, max_connections=1, display="none")
            # the name of a log has its time
            (made,) = Path(scratch).glob(f"*.{suffix}")
            target = HERE / "inspect" / f"{side}.{suffix}"
            target.parent.mkdir(exist_ok=True)
            if form == "json":
                target.with_name(f"{target.name}.xz").write_bytes(lzma.compress(made.read_bytes(), preset=9))
            else:
                shutil.copyfile(made, target)


if __name__ == "__main__":
    {"lm_eval": make_lm_eval, "inspect": make_inspect}[sys.argv[1]]()
