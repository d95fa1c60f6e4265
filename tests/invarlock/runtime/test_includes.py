from pathlib import Path

import pytest

from invarlock.runtime.includes import Include, includes, yaml_files


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("base: !include ../base.yaml", "../base.yaml"),
        ('base: !include "../a base.yml"', "../a base.yml"),
        ("- !include '../b.json'", "../b.json"),
        ("all: [!include ../c.yaml, 2]", "../c.yaml"),
        ("!include ../d.yaml", "../d.yaml"),
    ],
)
def test_an_include_is_found_however_it_is_written(line: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "inputs" / "preset.yaml"
    path.parent.mkdir()
    path.write_text(f"# a: !include ../not_this.yaml\nfirst: 1\n{line}\n")

    found = list(includes([path], None))

    assert found == [Include(path, (tmp_path / named.removeprefix("../")), path.parent)]
    assert found[0].is_outside


def test_an_include_of_an_include_counts_from_the_input_and_a_link_out_of_its_folder_is_outside(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    (inputs / "parts").mkdir(parents=True)
    (inputs / "preset.yaml").write_text("a: !include parts/a.yaml\n")
    (inputs / "parts" / "a.yaml").write_text("b: !include ../b.yaml\nc: !include link.yaml\nagain: !include a.yaml\n")
    (inputs / "b.yaml").write_text("x: 1\n")
    (tmp_path / "secret.yaml").write_text("x: 1\n")
    (inputs / "parts" / "link.yaml").symlink_to(tmp_path / "secret.yaml")

    found = {one.file.name: one.is_outside for one in includes([inputs / "preset.yaml"], None)}

    assert found == {"a.yaml": False, "b.yaml": False, "link.yaml": True}


def test_what_lies_in_the_root_of_inputs_may_include_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "base.yaml").write_text("x: 1\n")
    (tmp_path / "presets" / "one.yaml").write_text("base: !include ../base.yaml\n")
    files = yaml_files([tmp_path, tmp_path / "base.yaml", tmp_path / "absent.yaml"])

    assert files == [tmp_path / "base.yaml", tmp_path / "presets" / "one.yaml"]
    assert [one.is_outside for one in includes(files, tmp_path)] == [False]
    assert [one.is_outside for one in includes(files, None)] == [True]
