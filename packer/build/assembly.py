"""Collecting the content of a pack from existing files: reports with their accompanying files, baselines, metadata."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from invarlock.packer.build.building import PackContent
from invarlock.packer.format import layout
from invarlock.packer.format.in_pack import in_pack
from invarlock.packer.format.limits import MAX_TEXT_BYTES
from invarlock.packer.verify.verifying import ReportAssurance

from invarlock.catalog.cases import report_folder
from invarlock.catalog.models import folder_name
from invarlock.catalog.user_scenarios import pair_manifest
from invarlock.documents import JsonObject
from invarlock.errors import DocumentError, ReportError, UsageError
from invarlock.jsonio import MAX_DOCUMENT_BYTES, check_schema, dump_json, parse_json, read_file
from invarlock.problems import Code
from invarlock.reports.kinds import check_report
from invarlock.reports.preset_files import null_run_name, preset_name, read_preset
from invarlock.reports.served import is_served

MAX_MATERIAL_BYTES = 1024**3


class FilesOnDisk(Mapping[str, bytes]):
    """The files of a pack, by their path in it; a file on disk is read at each access, and not kept in memory."""

    def __init__(self, sources: Mapping[str, Path | bytes]) -> None:
        self._sources = dict(sources)

    def __getitem__(self, place: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            KeyError: when there is no such file.
            MissingFileError, UsageError: when it was removed, or cannot be read.
        """
        source = self._sources[place]
        return source if isinstance(source, bytes) else _read(source, MAX_MATERIAL_BYTES)

    def __iter__(self) -> Iterator[str]:
        """Return the paths in the pack."""
        return iter(self._sources)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._sources)


def gather_files(
    *,
    reports: Sequence[Path],
    baselines: Sequence[Path],
    scenarios: Path,
    final_verdict: Path | None,
    pytest_report: Path | None = None,
    source_repo: Path | None = None,
    environment: Path | None = None,
    metadata: Mapping[str, Path] | None = None,
    presets: Path | None = None,
    materials: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    run_name: str | None = None,
    report_assurance: ReportAssurance = "report",
    readme_notes: Path | None = None,
) -> PackContent:
    """Return the content of a pack; each report goes to the path of its case.

    Args:
        reports: ``evaluation.report.json`` files, each in a folder with its accompanying files.
        baselines: the baselines' own reports.
        scenarios: the run's effective manifest.
        final_verdict: the run's verdict, which must match the one derived from the reports.
        pytest_report: pytest's report of the cases, if available.
        source_repo: provenance of the source.
        environment: provenance of the environment.
        metadata: more files for ``metadata/``, by name.
        presets: a folder of presets; those of models with a report go into the pack, with their null runs.
        materials: ``NAME=FILE`` texts; each goes to ``metadata/materials/NAME``.
        parameters: the settings of the run.
        run_name: name of the run directory; by default the name of the folder of ``scenarios``.
        report_assurance: the assurance level that the pack's maker requires of its reports.
        readme_notes: text by the pack's maker, appended to the README.

    Raises:
        MissingFileError: when a file does not exist.
        UsageError: when two reports belong to the same case, or a material is malformed.
        ReportError: when a file is not a report, or its scenario is not in the manifest.
        DocumentError: when the manifest is malformed.
    """
    plan = _read(scenarios)
    files: dict[str, Path | bytes] = {layout.SCENARIOS: plan}
    manifest = parse_json(plan, where=str(scenarios))
    check_schema(manifest, "scenarios", where=str(scenarios))
    categories = {row["id"]: row["category"] for row in manifest["scenarios"]}
    for path in reports:
        document = _report(_read(path), path)
        place = _place(document, path, categories)
        if place in files:
            raise UsageError(
                f"a second report for the case {place}; give one report per case",
                code=Code.BUILD_INPUT_UNUSABLE,
                where=str(path),
            )
        files |= _report_files(document, path, place)
    files |= _references(files, presets, baselines)
    optional = {
        layout.PYTEST_REPORT: pytest_report,
        layout.SOURCE_REPO: source_repo,
        layout.ENVIRONMENT: environment,
        **{f"metadata/{name}": path for name, path in (metadata or {}).items()},
    }
    files |= {place: _source(path) for place, path in optional.items() if path is not None}
    named = dict(_material(text) for text in materials)
    files |= {f"metadata/materials/{name}": _source(path, MAX_MATERIAL_BYTES) for name, path in named.items()}
    return PackContent(
        files=FilesOnDisk(files),
        run_name=run_name or Path(os.path.realpath(scenarios)).parent.name,
        parameters=parameters or {},
        materials={name: f"metadata/materials/{name}" for name in named},
        claimed_verdict=None if final_verdict is None else _verdict(final_verdict),
        report_assurance=report_assurance,
        readme_notes="" if readme_notes is None else _text(readme_notes),
        has_page=not (parameters or {}).get("skip_html", {}).get("value"),
    )


def gather_pair(
    report: Path,
    *,
    baseline: Path | None = None,
    presets: Path | None = None,
    environment: Path | None = None,
    source_repo: Path | None = None,
    materials: Sequence[str] = (),
    readme_notes: Path | None = None,
) -> PackContent:
    """Return the content of a pack made from one report of ``invarlock evaluate``; its only case must pass every gate.

    Args:
        report: ``evaluation.report.json`` in the folder that ``evaluate`` wrote.
        baseline: the baseline's own report; by default the one in that folder.
        presets: a folder that contains the preset used to judge the report.
        environment: provenance of the environment.
        source_repo: provenance of the source.
        materials: ``NAME=FILE`` texts; each goes to ``metadata/materials/NAME``.
        readme_notes: text by the pack's maker, appended to the README.

    Raises:
        MissingFileError: when a file does not exist.
        UsageError: when the report is a case of a run, or a material is malformed.
        ReportError: when a file is not a report.
    """
    document = _report(_read(report), report)
    if document["context"]["suite"] != layout.PAIR_SUITE:
        raise UsageError(
            f"a case of a run (suite {document['context']['suite']}); give the run's verdict with --final-verdict",
            code=Code.BUILD_INPUT_UNUSABLE,
            where=str(report),
        )
    manifest = pair_manifest(document)
    files: dict[str, Path | bytes] = {layout.SCENARIOS: dump_json(manifest)}
    place = _place(document, report, {row["id"]: row["category"] for row in manifest["scenarios"]})
    files |= _report_files(document, report, place)
    runtime = report.with_name(layout.RUNTIME_MANIFEST)
    files[layout.sibling(place, layout.RUNTIME_MANIFEST)] = _moved(_read(runtime), runtime, place)
    files |= _references(files, presets, [baseline or report.parent / "baseline" / layout.REPORT_NAME])
    optional = {layout.ENVIRONMENT: environment, layout.SOURCE_REPO: source_repo}
    files |= {name: _source(path) for name, path in optional.items() if path is not None}
    named = dict(_material(text) for text in materials)
    files |= {f"metadata/materials/{name}": _source(path, MAX_MATERIAL_BYTES) for name, path in named.items()}
    return PackContent(
        files=FilesOnDisk(files),
        run_name=document["meta"]["scenario"],
        parameters={},
        materials={name: f"metadata/materials/{name}" for name in named},
        readme_notes="" if readme_notes is None else _text(readme_notes),
    )


def _moved(data: bytes, path: Path, place: str) -> bytes:
    """Return a report's runtime manifest with the path of the report changed to its place in the pack."""
    try:
        document = parse_json(data, where=str(path))
        check_schema(document, "runtime_manifest", where=str(path))
    except DocumentError as error:
        raise ReportError(str(error), problems=in_pack(error, Code.FILE_MALFORMED)) from None
    return dump_json({**document, "report": {**document["report"], "path": place}})


def _report_files(report: Mapping[str, Any], path: Path, place: str) -> dict[str, Path | bytes]:
    """Return a report with the files in its folder, by their paths in a pack."""
    # a served subject was not edited here, so it has no edit metadata
    needed = [name for name in layout.SIDECARS if not (name == layout.EDIT_METADATA and is_served(report))]
    more = (*layout.PROBES, *layout.DEPLOYABLES, layout.REPEATS, layout.PAGE)
    found = [*needed, *(name for name in more if path.with_name(name).is_file())]
    return {place: _source(path), **{layout.sibling(place, name): _source(path.with_name(name)) for name in found}}


def _references(files: Iterable[str], presets: Path | None, baselines: Sequence[Path]) -> dict[str, Path | bytes]:
    """Return the presets of the models with a report, and the baselines' own reports, by their paths in a pack."""
    found: dict[str, Path | bytes] = {}
    if presets is not None:
        models = {layout.model_folder(place) for place in files if layout.is_report(place)}
        found |= {f"{layout.PRESETS}{name}": _source(presets / name) for name in _preset_files(presets, models)}
    for path in baselines:
        found[layout.baseline_path(_model_folder(_read(path), path))] = _source(path)
    return found


def _source(path: Path, limit_bytes: int = MAX_DOCUMENT_BYTES) -> Path | bytes:
    """Return the path of a file that can be read later; the bytes of a pipe, which can be read only once.

    Raises:
        MissingFileError: when the file does not exist.
        UsageError: when it cannot be read or is too large.
    """
    try:
        is_file, size = path.is_file(), path.stat().st_size
    except OSError:
        is_file, size = False, 0
    return path if is_file and size <= limit_bytes else _read(path, limit_bytes)


def _read(path: Path, limit_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    try:
        return read_file(path, limit_bytes=limit_bytes)
    except DocumentError as error:
        raise UsageError(str(error), code=Code.BUILD_INPUT_UNUSABLE) from None


def _verdict(path: Path) -> JsonObject:
    document = parse_json(_read(path), where=str(path))
    records = document.get("records") if isinstance(document, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise UsageError(
            "not a final_verdict.json (it has no list of records); give the file of a run",
            code=Code.BUILD_INPUT_UNUSABLE,
            where=str(path),
        )
    return dict(document)


def _text(path: Path) -> str:
    data = _read(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("not UTF-8 text", code=Code.BUILD_INPUT_UNUSABLE, where=str(path)) from None
    if len(data) > MAX_TEXT_BYTES // 2:
        raise UsageError(
            f"{len(data)} bytes, more than the limit of {MAX_TEXT_BYTES // 2} for a README; shorten it",
            code=Code.BUILD_INPUT_UNUSABLE,
            where=str(path),
        )
    return text


def _preset_files(folder: Path, models: Iterable[str]) -> Iterator[str]:
    """Yield the preset files of the given models, as paths relative to the folder."""
    for model in sorted(models):
        path = folder / preset_name(model)
        if not path.is_file():
            continue
        preset = read_preset(path).document
        yield from (preset_name(model), preset_name(model, "yaml"))
        for row in (*preset["null_runs"], preset["held_out"]):
            yield null_run_name(model, row["run"])


def _place(report: Mapping[str, Any], path: Path, categories: Mapping[str, str]) -> str:
    """Return the pack path of a report."""
    meta = report["meta"]
    if meta["scenario"] not in categories:
        words = f"{meta['scenario']!r} is not a scenario of the manifest"
        raise ReportError(words, where=str(path), field="meta.scenario", code=Code.REPORT_MALFORMED)
    folder = report_folder(meta["model_id"], meta["scenario"], categories[meta["scenario"]], meta["run"])
    return f"reports/{folder}/{layout.REPORT_NAME}"


def _report(data: bytes, path: Path) -> JsonObject:
    try:
        document: JsonObject = parse_json(data, where=str(path))
        check_report(document, "evaluation_report", where=str(path))
    except DocumentError as error:
        raise ReportError(str(error), problems=in_pack(error, Code.REPORT_MALFORMED)) from None
    return document


def _model_folder(data: bytes, path: Path) -> str:
    try:
        document = parse_json(data, where=str(path))
        check_report(document, "baseline_report", where=str(path))
    except DocumentError as error:
        raise ReportError(str(error), problems=in_pack(error, Code.REPORT_MALFORMED)) from None
    return folder_name(document["meta"]["model_id"])


def _material(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not path or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageError(
            f"--material {text!r}: write NAME=FILE; NAME may contain letters, digits, '.', '_' and '-'",
            code=Code.BUILD_INPUT_UNUSABLE,
        )
    return name, Path(path)
