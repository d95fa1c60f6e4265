"""Write ``PROVENANCE.md`` from what each folder's ``contents.json`` says."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Checkpoints as their tools wrote them

`make.py NAME` makes each again from an embedded model (`suites/embedded`), or a small random one
(`tests/support/small_baselines.py`), on a CPU without a network, in an
environment that holds the tools of the table. `tests/support/shipped_checkpoints.py` keeps them small: a tensor or a
file that the tool left as it was is copied from the embedded model when a test restores the checkpoint, the rest is
compressed with xz. The digests below are those of the files that the tool wrote, and `restore` compares them.

`dense.json` holds, for each tensor, the dtype, the shape, the SHA-256 of the float32 bytes and the first four values
of what the tool's own code dequantises. `python tests/data/shipped/provenance.py` writes this page.

Environments: CPython 3.11, `torch==2.13.0` (CPU), and `pip install` of the tool named first; the versions are those
that were installed. GGUF files are converted by `convert_hf_to_gguf.py` of the source distribution of llama-cpp-python,
quantised by the library that the npm package @node-llama-cpp/linux-x64 holds, and dequantised by its `libggml-base`.
`gguf-architectures.tar.xz` holds what the converter made of a small model of each further architecture
(`tests/support/gguf_architectures.py`), unquantised and without a vocabulary; `make_gguf_architectures.py` makes it.

| checkpoint | made from | tools | made by |
| --- | --- | --- | --- |
"""
MISSING = """
## Not made

- torchao's Int4Tensor (two codes a byte): its packing needs a GPU library (mslk). A test writes it by FBGEMM's formula.
- gpt-oss' MXFP4: its packing needs a GPU. A test writes it, and transformers converts it.
- GPTQModel's own file: it runs on a CPU only with a patch. `gptq_v2` and `desc_act` are tested on a packing that the
  test writes by the published layout.
- AutoAWQ's own file: the AWQ checkpoints are auto-round's. ModelOpt's and block FP8: their tools need a GPU.
- A merge: it is a dense checkpoint.
"""


def page() -> str:
    """Return the page."""
    rows, digests = [], []
    for path in sorted(HERE.glob("*/contents.json")):
        contents, name = json.loads(path.read_text()), path.parent.name
        tools = ", ".join(f"{tool} {version}" for tool, version in contents["tool"].items() if tool != "by")
        by = contents["tool"].get("by", "the tool")
        rows.append(f"| `{name}` | `{contents['baseline']}` | {tools} | {by} |\n")
        digests += [f"| `{name}/{file}` | `{kept['sha256']}` |\n" for file, kept in contents["files"].items()]
    return (
        HEAD
        + "".join(rows)
        + MISSING
        + "\n## Digests (sha256)\n\n| file | digest |\n| --- | --- |\n"
        + "".join(digests)
    )


if __name__ == "__main__":
    (HERE / "PROVENANCE.md").write_text(page())
