"""A program that stands in for podman or docker where none can run a container: it has one image, and writes down how
it was called. It does not run the command; tests/container does that in a real container.
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
    """Make the program in a folder of a PATH, and return the file in which it keeps its calls, a JSON document a line.

    Args:
        folder: of the PATH.
        name: podman or docker.
        known: the image that it has.
        run: Python that it runs for ``run``.
    """
    log = folder / f"{name}.calls"
    program = folder / name
    program.write_text(SCRIPT.format(python=sys.executable, log=str(log), known=known, image=IMAGE, run=run))
    program.chmod(0o755)
    return log
