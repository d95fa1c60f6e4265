"""The documentation: links resolve, pages are in the site, and commands are ones that the programs accept."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from invarlock.packer.cli import PACK_COMMANDS
from processes import python, succeed

from invarlock.boundary import CommandParser
from invarlock.cli.program import make_parser
from invarlock.edits import EDITS
from invarlock.edits.edit import Edit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "suites/README.md", ROOT / "examples/README.md"])
# They quote what was true at their time.
HISTORY = {"CHANGELOG.md"}
LINK = re.compile(r"\[[^]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("invarlock", "pytest", "python", "pip", "pipx", "tox", "make", "git", "podman", "docker", "watch")
# Options that pytest has before it loads plugins.
EARLY = {"-p", "-c", "-k", "-m", "-n", "-q", "-v", "-s"}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them of plain headings."""
    text = FENCE.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[str]:
    """Yield the command lines in the code blocks of a page: lines that begin with a program, after variables."""
    for language, block in FENCE.findall(text):
        if language in ("python", "json", "toml", "ini"):
            continue
        for line in block.splitlines():
            line = re.sub(r"^\s*- (run: )?", "", line.strip()).removeprefix("$ ")
            words = line.split()
            while words and re.fullmatch(r"[A-Z_0-9]+=\S*", words[0]):
                words = words[1:]
            if words and words[0] in PROGRAMS:
                yield line


COMMANDS = [
    pytest.param(line, id=f"{named(page)}-{number}")
    for page in PAGES
    if page.name not in HISTORY
    for number, line in enumerate(commands(page.read_text("utf-8")))
]
WORKFLOW = (ROOT / "examples/github-workflow.yml").read_text("utf-8")
COMMANDS += [pytest.param(line, id=line) for line in commands(f"```yaml\n{WORKFLOW}```")]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_inside_the_documentation_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_the_site_has_every_page_once() -> None:
    def leaves(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            for inner in entry.values():
                yield from leaves(inner)
        elif isinstance(entry, list):
            for inner in entry:
                yield from leaves(inner)

    listed = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))

    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_pages_of_the_site_link_to_nothing_outside_of_it() -> None:
    outside = [
        (named(page), link)
        for page in DOCS.rglob("*.md")
        for link in LINK.findall(page.read_text("utf-8"))
        if "://" not in link and not (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS)
    ]

    assert outside == []


@cache
def pytest_options() -> frozenset[str]:
    """Return the options of pytest with the plugin of the suites."""
    done = succeed(python("-m", "pytest", "suites", "--help", cwd=ROOT))
    return frozenset(re.findall(r"(?<![\w-])-{1,2}[a-zA-Z][\w-]*", done.stdout)) | EARLY


def split_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line, without variables and comments."""
    words: list[str] = []
    for word in [*shlex.split(line.replace("…", "0" * 64), comments=True), "&&"]:
        if word not in ("&&", "|"):
            words.append(word)
            continue
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words
        words = []


def packer_parser() -> CommandParser:
    """Return a parser of the commands of ``python -m invarlock.packer``."""
    parser = CommandParser()
    subparsers = parser.add_subparsers(required=True)
    for add in PACK_COMMANDS:
        add(subparsers)
    return parser


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_is_one_that_its_program_accepts(line: str) -> None:
    for words in split_commands(line):
        if words[:3] == ["python", "-m", "invarlock.packer"] or words[:3] == ["invarlock", "advanced", "evidence-pack"]:
            packer_parser().parse_args(words[3:])
        elif words[0] == "invarlock" and words[1] != "run":
            make_parser().parse_args(words[1:])
        elif words[0] == "pytest" or words[:2] == ["invarlock", "run"]:
            given = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert given - pytest_options() == set()
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file()
        elif words[0] == "tox" and "-e" in words:
            known = re.findall(r"^\[testenv:([\w-]+)\]", (ROOT / "tox.ini").read_text("utf-8"), re.MULTILINE)
            assert set(words[words.index("-e") + 1].split(",")) <= {*known, "py"}
        elif words[0] == "make":
            assert set(words[1:2]) <= {"dev-install", "runtime-image", "pack", "help"}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_the_page_about_suites_has_the_syntax_of_every_edit(edit: Edit) -> None:
    text = (DOCS / "own-suites.md").read_text("utf-8").replace("\\|", "|")

    assert f"| `{edit.syntax}` |" in text
