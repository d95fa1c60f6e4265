"""``docs/arguments.md`` is what the parsers say."""

from pathlib import Path

from invarlock.cli.page import commands_page

PAGE = Path(__file__).parents[3] / "docs" / "arguments.md"


def test_the_page_of_commands_is_generated_from_the_parsers() -> None:
    # to write it: python -m invarlock.cli.page > docs/arguments.md
    assert PAGE.read_text("utf-8") == commands_page()


def test_the_page_has_each_option_of_a_command_once() -> None:
    section = commands_page().partition("### `invarlock evaluate`")[2].partition("###")[0]

    for option in ("--baseline", "--subject", "--quick", "--intent"):
        assert section.count(f"| `{option} ") + section.count(f"| `{option}`") == 1
