"""Every setting of a suite run, once: its option, its environment variables, default, and how its text is read.

An option beats its variable, a variable beats the default. pytest's options, ``--help``, the docs table and
``state/settings.json`` come from these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from invarlock.errors import UsageError

Source = Literal["option", "variable", "default"]


@dataclass(frozen=True)
class Setting:
    """One setting. A flag's option takes no value; ``parse`` reads text, ``inverted`` negates a variable."""

    name: str
    help: str
    default: Any
    parse: Callable[[str], Any]
    option: str | None = None
    variables: tuple[str, ...] = ()
    flag: bool = False
    inverted: bool = False


@dataclass(frozen=True)
class Settings:
    """The resolved settings, and where each value came from."""

    values: Mapping[str, Any]
    sources: Mapping[str, Source]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def document(self) -> dict[str, Any]:
        """Return what goes to ``state/settings.json`` and into the manifest."""
        return {
            name: {"value": list(value) if isinstance(value, tuple) else value, "source": self.sources[name]}
            for name, value in self.values.items()
        }


def _text(text: str) -> str:
    return text


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ValueError("names separated by commas")
    return names


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # ten digits hold every bound below; longer text would cost time for nothing
        if not text.isascii() or not text.isdigit() or len(text) > 10 or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return parse


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "output_dir",
        "run directory; must not exist, unless with --resume",
        None,
        _text,
        "--output-dir",
        ("PACK_OUTPUT_DIR", "OUTPUT_DIR"),
    ),
    Setting(
        "resume",
        "go on with a run: --output-dir's, or the newest of the suite; what is done and fits is kept",
        False,
        _flag,
        "--resume",
        ("RESUME_MODE",),
        True,
    ),
    Setting(
        "scenario_ids",
        "run only these scenarios, separated by commas",
        None,
        _names,
        "--scenario-ids",
        ("PACK_SCENARIO_IDS",),
    ),
    Setting(
        "tier",
        "limits that reports are judged by: balanced, conservative or aggressive",
        "balanced",
        _choice("balanced", "conservative", "aggressive"),
        "--tier",
        ("INVARLOCK_TIER",),
    ),
    Setting(
        "profile",
        "how much is measured: dev, ci or release",
        "dev",
        _choice("dev", "ci", "release"),
        "--profile",
        ("PACK_VERIFY_PROFILE",),
    ),
    Setting("pack_dir", "the evidence pack's folder; must not exist", None, _text, "--pack-dir", ("PACK_DIR",)),
    Setting("no_pack", "compile the verdict, build no pack", False, _flag, "--no-pack", flag=True),
    Setting(
        "signing_key",
        "Ed25519 private key (PEM) that signs the pack; without one a key is made for the run",
        None,
        _text,
        "--signing-key",
        ("PACK_SIGNING_KEY",),
    ),
    Setting(
        "unsigned", "leave the pack unsigned", False, _flag, "--unsigned", ("PACK_SIGN_MANIFEST",), True, inverted=True
    ),
    Setting(
        "keep_models",
        "keep the subjects' checkpoints in the run directory",
        False,
        _flag,
        "--keep-models",
        ("PACK_CLEANUP_MODELS",),
        True,
        inverted=True,
    ),
    Setting(
        "window_seed",
        "seed of the window draws; run n draws with seed + n",
        0,
        _whole(0, 1_000_000_000),
        "--window-seed",
        ("INVARLOCK_WINDOW_SEED",),
    ),
    Setting(
        "determinism",
        "throughput, or strict: the same numbers each time and with any number of workers",
        "throughput",
        _choice("throughput", "strict"),
        "--determinism",
        ("PACK_DETERMINISM",),
    ),
    Setting(
        "repeats",
        "measure each clean case so many times more, and record whether it gave the same",
        0,
        _whole(0, 100),
        "--repeats",
        ("PACK_REPEATS",),
    ),
    Setting(
        "tuned_params_file",
        "parameters of the clean edits; default: the suites folder's",
        None,
        _text,
        variables=("PACK_TUNED_EDIT_PARAMS_FILE",),
    ),
    Setting(
        "seq_len", "tokens a window; default: the suite's", None, _whole(2, 1 << 20), variables=("INVARLOCK_SEQ_LEN",)
    ),
    Setting(
        "preview_windows",
        "preview windows; default: the suite's, then the profile's",
        None,
        _whole(1, 1 << 20),
        variables=("INVARLOCK_PREVIEW_WINDOWS",),
    ),
    Setting(
        "final_windows",
        "final windows; default: the suite's, then the profile's",
        None,
        _whole(1, 1 << 20),
        variables=("INVARLOCK_FINAL_WINDOWS",),
    ),
    Setting(
        "eval_batch",
        "windows scored at a time, to begin with",
        16,
        _whole(1, 4096),
        variables=("INVARLOCK_EVAL_BATCH",),
    ),
)


PAGE_HEAD = """# Settings

An option beats its variable, a variable beats the default. A flag's variable takes `0` or `1`. A run writes what it
used, and where each value came from, to `state/settings.json` and into its pack's manifest.

"""


def resolve_settings(options: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings of a run.

    Args:
        options: values given on the command line, by setting name; None or False where not given.
        environment: the environment variables. A variable that is empty counts as not set.

    Raises:
        UsageError: naming each value that does not parse, where it came from and what is allowed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    problems: list[str] = []
    for setting in SETTINGS:
        given = options.get(setting.name)
        variable = next((name for name in setting.variables if environment.get(name)), None)
        values[setting.name], sources[setting.name] = setting.default, "default"
        if setting.flag and given:
            values[setting.name], sources[setting.name] = True, "option"
        elif not setting.flag and given is not None:
            sources[setting.name] = "option"
            values[setting.name] = _parsed(setting, str(given), str(setting.option), problems)
        elif variable is not None:
            sources[setting.name] = "variable"
            value = _parsed(setting, environment[variable], variable, problems)
            values[setting.name] = (not value) if setting.inverted else value
    if values["unsigned"] and values["signing_key"] is not None:
        problems.append("--unsigned and --signing-key exclude each other; drop one")
    if values["no_pack"] and values["pack_dir"] is not None:
        problems.append("--no-pack and --pack-dir exclude each other; drop one")
    if problems:
        raise UsageError("; ".join(problems))
    return Settings(values, sources)


def settings_page() -> str:
    """Return ``docs/settings.md``: the table of every setting."""
    rows = ["| option | variables | default | what it does |", "| --- | --- | --- | --- |"]
    for setting in SETTINGS:
        option = "–" if setting.option is None else f"`{setting.option}`"
        # a variable that is inverted asks for the opposite: PACK_SIGN_MANIFEST=0 leaves a pack unsigned
        names = [f"`{name}=0`" if setting.inverted else f"`{name}`" for name in setting.variables]
        default = "off" if setting.default is False else "–" if setting.default is None else f"`{setting.default}`"
        rows.append(f"| {option} | {', '.join(names) or '–'} | {default} | {setting.help} |")
    return PAGE_HEAD + "\n".join(rows) + "\n"


def _parsed(setting: Setting, text: str, where: str, problems: list[str]) -> Any:
    try:
        return setting.parse(text)
    except ValueError as error:
        problems.append(f"{where}: {text!r} is not allowed, it takes {error}")
        return setting.default


if __name__ == "__main__":
    print(settings_page(), end="")
