"""Convert a small model of each architecture with llama.cpp's converter, and keep the files in one archive.

``LLAMA_CPP`` names the folder ``vendor/llama.cpp`` of the source distribution of llama-cpp-python 0.3.36::

    LLAMA_CPP=… python tests/data/shipped/make_gguf_architectures.py
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import runpy
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ARCHIVE = HERE / "gguf-architectures.tar.xz"
LLAMA_CPP = Path(os.environ.get("LLAMA_CPP", "llama.cpp"))
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py"), str(HERE.parents[1] / "support")]


def convert(model_type: str, target: Path) -> None:
    """Write the GGUF file of a small model, without a vocabulary: only its tensors and numbers are tested."""
    from gguf_architectures import write_small_model

    conversion: Any = importlib.import_module("conversion")
    for module in pkgutil.iter_modules(conversion.__path__):
        with contextlib.suppress(ImportError):  # of models that need a package of their own
            importlib.import_module(f"conversion.{module.name}")
    base: Any = importlib.import_module("conversion.base")
    todo = [base.TextModel]
    while todo:
        kind = todo.pop()
        kind.set_vocab = lambda self: None
        todo += kind.__subclasses__()
    with tempfile.TemporaryDirectory() as work:
        folder = write_small_model(model_type, Path(work))
        sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outtype", "f32", "--outfile", str(target)]
        runpy.run_path(str(LLAMA_CPP / "convert_hf_to_gguf.py"), run_name="__main__")


def main() -> None:
    """Convert each model in a process of its own, and write the archive."""
    from gguf_architectures import MODELS

    with tempfile.TemporaryDirectory() as work, tarfile.open(ARCHIVE, "w:xz") as archive:
        for model_type in MODELS:
            target = Path(work) / f"{model_type}.gguf"
            subprocess.run([sys.executable, __file__, model_type, target], check=True)
            entry = tarfile.TarInfo(target.name)
            entry.size = target.stat().st_size
            with target.open("rb") as data:
                archive.addfile(entry, data)


if __name__ == "__main__":
    if sys.argv[1:]:
        convert(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
