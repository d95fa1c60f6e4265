"""A fake podman or docker, for machines that cannot run containers.

It has one image and logs how it was called. It does not run the command; tests/container does that in a real container.
"""

from __future__ import annotations

import sys
from pathlib import Path

IMAGE = "1" * 64
SCRIPT = """#!{python}
import json, os, sys
from pathlib import Path
with Path({log!r}).open("a") as stream:
    stream.write(json.dumps({{"arguments": sys.argv[1:], "here": os.getcwd()}}) + "\\n")
if sys.argv[1:3] == ["image", "inspect"]:
    if sys.argv[-1] != {known!r}:
        sys.exit(f"Error: {{sys.argv[-1]}}: image not known")
    print({image!r})
elif sys.argv[1] == "run":
    {run}
"""


def lay_down(folder: Path, name: str, *, known: str = "invarlock-runtime:local", run: str = "sys.exit(3)") -> Path:
    """Write the program to a folder of a PATH; return the path of its log of calls, with one JSON document per line.

    Args:
        folder: a folder of the PATH.
        name: podman or docker.
        known: the image that it has.
        run: the Python code that it executes for ``run``.
    """
    log = folder / f"{name}.calls"
    program = folder / name
    program.write_text(SCRIPT.format(python=sys.executable, log=str(log), known=known, image=IMAGE, run=run))
    program.chmod(0o755)
    return log
