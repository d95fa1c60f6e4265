"""The formats in which checkpoints store their weights, each with a reader; importing this does not import PyTorch.

Example::

    checkpoint = open_checkpoint(Path("mistral-7b-w4a16"))          # of ``checkpoints.storage_format``
    checkpoint.files.entries["model.layers.0.mlp.up_proj.weight"]   # TensorEntry(…, dtype="BF16", shape=(14336, 4096))
    checkpoint.read("model.layers.0.mlp.up_proj.weight")            # a dense torch.Tensor
    checkpoint.storage().bits_per_weight                            # 4.6

A format is one module here: an object with ``matches`` and ``open`` (see ``interface.Format``), listed in ``FORMATS``.
The first format that matches reads the checkpoint; ``dense`` is last and always matches.
"""

from __future__ import annotations

from invarlock.checkpoints.formats import (
    adapter,
    auto_round,
    awq,
    bitsandbytes,
    block_fp8,
    compressed_tensors,
    dense,
    gguf,
    gptq,
    modelopt,
    mxfp4,
    torchao,
)
from invarlock.checkpoints.formats.interface import Format

FORMATS: tuple[Format, ...] = (
    gguf.FORMAT,
    compressed_tensors.FORMAT,
    block_fp8.FORMAT,
    modelopt.FORMAT,
    gptq.FORMAT,
    awq.FORMAT,
    auto_round.FORMAT,
    bitsandbytes.FORMAT,
    torchao.FORMAT,
    mxfp4.FORMAT,
    adapter.FORMAT,
    dense.FORMAT,
)
