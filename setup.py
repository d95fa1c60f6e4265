"""Puts the commit into a wheel that is built in a git checkout: a pack of its suites states where they come from."""

import json
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class BuildWithSource(build_py):
    """Builds the packages, and writes the source marker file of the suites."""

    def run(self) -> None:
        """Build, and write the marker where git names a commit of this checkout."""
        super().run()
        commit = _git("rev-parse", "HEAD")
        if commit is None or self.editable_mode or _git("ls-files", "--error-unmatch", "pyproject.toml") is None:
            return
        source = {
            "schema": "invarlock/source-repo-v1",
            "commit": commit,
            "branch": None,
            "describe": _git("describe", "--always", "--dirty", "--tags"),
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
            "uri": None,
        }
        target = Path(self.build_lib) / "invarlock" / "suite" / "source_repo.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(source, indent=2, sort_keys=True) + "\n")


setup(cmdclass={"build_py": BuildWithSource})
