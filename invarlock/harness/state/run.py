"""A run: its cases, its settings, and the paths of its files. The run directory is its only state."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from invarlock.catalog.models import Model
from invarlock.catalog.tuned_params import NO_TUNED_PARAMS, TunedParams, read_tuned_params
from invarlock.harness.selection.selected_cases import Catalog
from invarlock.harness.state.found_sources import Sources
from invarlock.packer.runs.run_directory import RunDirectory
from invarlock.problems import Problem
from invarlock.reports.sidecars import RuntimeImage
from invarlock.settings import Settings


@dataclass(frozen=True)
class Run:
    """The values that stay the same from the first case to the verdict.

    Attributes:
        sources: the sources found for the run's models.
        worker: the number of this process.
        image: the image of the container in which the run executes.
        launch_problems: why the run does not execute in a container although it should.
    """

    suites_folder: Path
    settings: Settings
    catalog: Catalog
    directory: RunDirectory
    workers: int
    started: datetime
    expression: dict[str, str]
    worker: int = 0
    sources: Sources = field(default_factory=Sources)
    image: RuntimeImage | None = None
    launch_problems: tuple[Problem, ...] = ()

    @property
    def tuned_params_path(self) -> Path:
        """Return the file of tuned parameters: the given one, otherwise that of the suites folder."""
        given = self.settings.tuned_params_file
        return Path(given) if given else self.suites_folder / "tuned_edit_params.json"

    def tuned_params(self) -> TunedParams:
        """Return the parameters of clean edits: those in the file, overridden by those in the config.

        A file named by an option or a variable takes precedence over the config.

        Raises:
            MissingFileError: when the file does not exist and the config has no edits either.
            DocumentError: when the file is malformed.
        """
        config, path = self.settings.config, self.tuned_params_path
        source = self.settings.sources["tuned_params_file"]
        if config is None or not config.edits or source not in ("config", "default"):
            return read_tuned_params(path)
        # a user's own suites folder may have no such file
        with_file = source == "config" or path.is_file()
        return (read_tuned_params(path) if with_file else NO_TUNED_PARAMS).with_edits(config.edits, config.path.name)

    def attention(self, kind: str) -> str:
        """Return transformers' name of the attention implementation for a kind of device, ``gpu`` or ``cpu``."""
        # flash-attention has no kernels for CPUs
        flash = kind == "gpu" and not self.settings.skip_flash_attention
        return "flash_attention_2" if flash else str(self.settings.attention)

    @property
    def executed(self) -> str:
        """The place where the run executes, as named in reports."""
        return "host-bypass" if self.image is None else "container"

    @property
    def pack_path(self) -> Path:
        """Return the folder of the pack: the given one, otherwise one in the run directory."""
        given = self.settings.pack_dir
        return Path(given).resolve() if given else self.directory.pack

    def named(self, model_id: str) -> str:
        """Return a model's name for a command line: its folder if it was given as a folder, otherwise its id."""
        path = self.catalog.models.models[model_id].path
        return path if path is not None and Path(path).is_absolute() else model_id

    def runs_code_of(self, model: Model) -> bool:
        """Return whether the model's own code is run, which both its row in models.toml and the user must allow."""
        return model.trust_remote_code and bool(self.settings.allow_remote_code)
