"""Train the embedded models from the text of six Jane Austen novels.

    apt-get install r-base-core r-cran-janeaustenr r-cran-tokenizers
    python suites/embedded/train.py novels NOVELS        # the package's text as six files
    python suites/embedded/train.py text NOVELS          # tokenizer/, text/austen_heldout.txt.xz
    python suites/embedded/train.py melville NOVELS      # text/melville.txt.xz
    python suites/embedded/train.py model NOVELS mistral-tiny

Everything is seeded. The same machine gives the same weights again; another may round differently, which is
why the checkpoints themselves are kept. Each command prints what it got; PROVENANCE.md keeps what we got.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import math
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2Config,
)

HERE = Path(__file__).parent
NOVELS = ("emma", "mansfieldpark", "northangerabbey", "persuasion", "prideprejudice", "sensesensibility")
BLOCK_BYTES = 8192
HELD_OUT_EVERY = 10
MELVILLE_BYTES = 65536
VOCABULARY = 1024
TRAIN_TOKENS = 256
BATCH = 8
PEAK_LEARNING_RATE = 4e-3
WARMUP_STEPS = 100
FINAL_FRACTION = 0.03
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
MODELS: dict[str, tuple[PretrainedConfig, int, int]] = {  # configuration, steps, seed
    "mistral-tiny": (
        MistralConfig(**SHAPE, num_hidden_layers=4, intermediate_size=384, sliding_window=None),
        4000,
        11,
    ),
    "qwen2-tiny": (
        Qwen2Config(**SHAPE, num_hidden_layers=4, intermediate_size=384, tie_word_embeddings=True),
        2000,
        12,
    ),
    "mixtral-tiny": (
        MixtralConfig(**SHAPE, num_hidden_layers=2, intermediate_size=192, num_local_experts=4, num_experts_per_tok=2),
        2000,
        13,
    ),
}


def extract_novels(folder: Path) -> None:
    """Write the six novels of the installed R package ``janeaustenr`` as UTF-8 text files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ",".join(f'"{name}"' for name in NOVELS)
    program = (
        f"for (n in c({names})) writeLines(enc2utf8(get(n, envir=asNamespace('janeaustenr'))), "
        f"file.path('{folder}', paste0(n, '.txt')), useBytes=TRUE)"
    )
    subprocess.run(["Rscript", "-e", program], check=True)


def write_melville(folder: Path) -> None:
    """Write the second text: the first chapters of Moby-Dick, which the installed R package ``tokenizers`` carries."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mobydick.txt"
    program = f"writeLines(enc2utf8(unname(tokenizers::mobydick)), '{path}', useBytes=TRUE)"
    subprocess.run(["Rscript", "-e", program], check=True)
    text = first_chapters(path.read_bytes().decode("utf-8"))
    packed = lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)
    (HERE / "text" / "melville.txt.xz").write_bytes(packed)
    print(f"melville: {len(text.encode())} bytes, sha256 {hashlib.sha256(packed).hexdigest()}")


def first_chapters(book: str) -> str:
    """Return the first 64 KB from the heading of chapter 1 on, up to the end of a paragraph, with Unix line ends."""
    lines = book.replace("\r\n", "\n")
    start = lines[lines.index("CHAPTER 1. Loomings") :].encode("utf-8")
    return start[:MELVILLE_BYTES].decode("utf-8", "ignore").rpartition("\n\n")[0] + "\n"


def split_text(folder: Path) -> tuple[str, str]:
    """Return the training and the held-out text: of every ten blocks of 8 KB the last is held out."""
    data = "\n\n".join((folder / f"{name}.txt").read_text("utf-8") for name in NOVELS).encode("utf-8")
    blocks = [data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES)]
    held_out = [block for number, block in enumerate(blocks) if number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    training = [block for number, block in enumerate(blocks) if number % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    return b"".join(training).decode("utf-8", "ignore"), b"\n".join(held_out).decode("utf-8", "ignore")


def train_tokenizer(text: str) -> Tokenizer:
    """Return a byte-level BPE tokenizer of 1,024 tokens, without special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def write_text_and_tokenizer(folder: Path) -> None:
    """Write the held-out text and the tokenizer that the three models share."""
    training, held_out = split_text(folder)
    tokenizer = train_tokenizer(training)
    (HERE / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(HERE / "tokenizer" / "tokenizer.json"))
    (HERE / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n"
    )
    (HERE / "text").mkdir(exist_ok=True)
    (HERE / "text" / "austen_heldout.txt.xz").write_bytes(
        lzma.compress(held_out.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)
    )
    tokens = len(tokenizer.encode(held_out).ids)
    print(f"held out: {len(held_out.encode())} bytes, {tokens} tokens, {tokens // 128} windows of 128")
    shared = twenty_gram_overlap(tokenizer.encode(training).ids, tokenizer.encode(held_out).ids)
    print(f"held-out 20-grams of tokens that also occur in the training text: {shared:.4%}")


def twenty_gram_overlap(training: list[int], held_out: list[int]) -> float:
    """Return the fraction of held-out 20-grams that occur in the training tokens."""
    seen = {tuple(training[start : start + 20]) for start in range(len(training) - 19)}
    grams = [tuple(held_out[start : start + 20]) for start in range(len(held_out) - 19)]
    return sum(gram in seen for gram in grams) / len(grams)


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up, then a cosine down to 3 % of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (FINAL_FRACTION + (1 - FINAL_FRACTION) * 0.5 * (1 + math.cos(math.pi * progress)))


def train(name: str, folder: Path) -> None:
    """Train one model, store it as bfloat16 safetensors, and print its held-out perplexity."""
    config, steps, seed = MODELS[name]
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer" / "tokenizer.json"))
    training, held_out = split_text(folder)
    stream = torch.tensor(tokenizer.encode(training).ids)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    draw = np.random.default_rng(seed)
    started = time.perf_counter()
    model.train()
    for step in range(steps):
        offsets = draw.integers(0, len(stream) - TRAIN_TOKENS, size=BATCH)
        batch = torch.stack([stream[offset : offset + TRAIN_TOKENS] for offset in offsets])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"{name} step {step} loss {loss.item():.4f} {time.perf_counter() - started:.0f} s", flush=True)
    target = HERE / name
    model.to(torch.bfloat16).save_pretrained(target)
    for extra in target.glob("generation_config.json"):
        extra.unlink()
    weights = load_file(target / "model.safetensors")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    perplexity = held_out_perplexity(target, tokenizer.encode(held_out).ids)
    digest = hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
    size = (target / "model.safetensors").stat().st_size
    print(f"{name}: {size} bytes, held-out perplexity {perplexity:.2f}, sha256 {digest}")


def held_out_perplexity(checkpoint: Path, tokens: list[int]) -> float:
    """Return the perplexity over all held-out windows of 128 tokens, in float32."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    windows = torch.tensor(tokens[: len(tokens) // 128 * 128]).view(-1, 128)
    with torch.inference_mode():
        losses = [model(input_ids=batch, labels=batch).loss.item() * len(batch) for batch in windows.split(32)]
    return math.exp(sum(losses) / len(windows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("novels", "text", "melville", "model"))
    parser.add_argument("novels", type=Path)
    parser.add_argument("name", nargs="?", choices=sorted(MODELS))
    arguments = parser.parse_args()
    if arguments.command == "novels":
        extract_novels(arguments.novels)
    elif arguments.command == "text":
        write_text_and_tokenizer(arguments.novels)
    elif arguments.command == "melville":
        write_melville(arguments.novels)
    elif arguments.name is None:
        parser.error(f"name a model: {', '.join(sorted(MODELS))}")
    else:
        train(arguments.name, arguments.novels)


if __name__ == "__main__":
    main()
