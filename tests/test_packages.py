"""What is installed: every package of the tree, and nothing that is not there."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_of_the_tree_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in setuptools["package-dir"].items()}
    there = {
        ".".join([name, *path.parent.relative_to(folder).parts])
        for name, folder in folders.items()
        for path in folder.rglob("__init__.py")
    }

    # the suites have no __init__.py: of them the catalogue is installed as data
    assert sorted(setuptools["packages"]) == sorted({*there, "invarlock.suite"})
