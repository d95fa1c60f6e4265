"""Decides which files of a repository or folder make up a model or a data set, and pins them.

With a network, a revision is resolved to a commit, and its files are fetched and verified. Without a network, the files
must be in the client's cache. Weights are safetensors. Pickles, which can run code when they are read, are fetched only
if a repository has nothing else and the user allows it; a reader that runs no code then converts them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from invarlock.catalog.pins import CODE_SUFFIX, Pin, PinnedFile
from invarlock.checkpoints.digests import digest_file
from invarlock.checkpoints.hub import (
    RETRY_POLICY,
    Kind,
    Listing,
    RetryPolicy,
    cache_folder,
    cached_file,
    fetch_file,
    list_repository,
    recorded_file,
    repository_folder,
)
from invarlock.checkpoints.layout import (
    CHAT_TEMPLATES,
    CONFIG_FILE,
    CONFIG_FILES,
    INDEX_FILE,
    SINGLE_FILE,
    TOKENIZER_FILES,
    checkpoint_files,
    code_files,
    read_index,
    tokenizer_files,
)
from invarlock.checkpoints.pickled_weights import PICKLED_FILE, PICKLED_INDEX, convert_weights, pickled_shards
from invarlock.errors import CheckpointError, HubError
from invarlock.moments import utc_now
from invarlock.output import ShowLine

# Files fetched at a time. The client splits a large file further if the hub's storage supports it.
DOWNLOADS_AT_ONCE = 4
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class RequiredFiles:
    """A repository at a commit and the names of its required files; ``pickled`` are those that must be converted."""

    listing: Listing
    names: tuple[str, ...]
    pickled: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Return the total size of the required files."""
        return sum(self.listing.files[name].size_bytes for name in self.names)

    @property
    def missing_bytes(self) -> int:
        """Return how many of these bytes are not in the client's cache yet; files to convert count twice."""
        listing = self.listing
        absent = [n for n in self.names if cached_file(listing.repo_id, listing.kind, listing.commit, n) is None]
        if not _converted_folder(listing.repo_id, listing.commit).is_dir():
            absent += self.pickled
        return sum(listing.files[name].size_bytes for name in absent)

    @property
    def weight_bytes(self) -> int:
        """The size of the weight files."""
        weights = self.pickled or [name for name in self.names if name.endswith(".safetensors")]
        return sum(self.listing.files[name].size_bytes for name in weights if name != PICKLED_INDEX)


def resolve_model(
    model_id: str,
    revision: str | None,
    retries: RetryPolicy = RETRY_POLICY,
    *,
    code: bool = False,
    pickles: bool = False,
) -> RequiredFiles:
    """Return the commit of a model and its files: weights, config and tokenizer.

    Args:
        model_id: the repository.
        revision: a commit or a branch; None means the main branch.
        retries: how often a failed request to the hub is repeated.
        code: whether the model's own code is required too.
        pickles: whether pickled weights may be fetched if there are no others.

    Raises:
        HubError: when the repository cannot be read, or lacks safetensors, config or tokenizer.
    """
    listing = list_repository(model_id, "model", revision, retries)
    where = f"{model_id} at {listing.commit}"
    if CONFIG_FILE not in listing.files:
        raise HubError(f"{where}: no {CONFIG_FILE}; name a repository of a transformers model")
    tokenizer = [name for name in listing.files if _is_tokenizer(name)]
    if not tokenizer:
        raise HubError(f"{where}: no tokenizer files; name a repository that has them")
    configs = [name for name in CONFIG_FILES if name in listing.files]
    own = [name for name in listing.files if code and name.endswith(CODE_SUFFIX) and "/" not in name]
    weights = _weights(listing, where, retries)
    pickled = () if weights else _pickled(listing, where, retries, allowed=pickles)
    return RequiredFiles(listing, tuple(sorted([*weights, *pickled, *configs, *tokenizer, *own])), pickled)


def fetch(resolved: RequiredFiles, show: ShowLine, retries: RetryPolicy = RETRY_POLICY) -> Pin:
    """Fetch and verify all required files of a repository, and return its pin.

    Raises:
        HubError: when a file cannot be fetched.
    """
    listing, done = resolved.listing, 0
    files: list[PinnedFile] = []
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        waiting = [pool.submit(fetch_file, listing, name, retries) for name in resolved.names]
        try:
            for future in as_completed(waiting):
                _, file = future.result()
                files.append(file)
                done += file.size_bytes
                show(f"{listing.repo_id}: {file.name} ({_gigabytes(done)} of {_gigabytes(resolved.size_bytes)} GB)")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    now = utc_now()
    pin = Pin(listing.repo_id, listing.commit, listing.licence, _sorted(files), now)
    return _converted(pin, resolved.pickled, show) if resolved.pickled else pin


def find_model(pin: Pin, *, code: bool = False) -> Pin:
    """Return a model's pin with its files, which must be in the client's cache. The hub is not contacted.

    If the pin lists no files, the model's own Python files are included only with ``code``.

    Raises:
        HubError: when a file is missing or differs from its pin.
    """
    folder = model_folder(pin)
    if pin.files:
        return _found(pin, "model", [file.name for file in pin.files])
    try:
        names = (*checkpoint_files(folder), *(code_files(folder) if code else ()))
        if not tokenizer_files(folder):
            raise CheckpointError("no tokenizer files")
    except CheckpointError as error:
        said = str(error).replace(f"{folder}/", "").partition(";")[0]
        raise HubError(f"{_where(pin)}: incomplete in the cache ({said}); fetch it: --net 1") from None
    return _found(pin, "model", names)


def find_dataset(pin: Pin, names: Sequence[str]) -> Pin:
    """Return a data set's pin with its files, which must be in the client's cache. The hub is not contacted.

    Raises:
        HubError: when a file is missing or differs from its pin.
    """
    return _found(pin, "dataset", names)


def model_folder(pin: Pin) -> Path:
    """Return the folder of a pinned model in the client's cache.

    Raises:
        HubError: when the model is not in the cache.
    """
    config = cached_file(pin.id, "model", pin.revision, CONFIG_FILE)
    if config is None:
        raise HubError(f"{_where(pin)}: not in the cache at {cache_folder()}; fetch it: --net 1")
    converted = _converted_folder(pin.id, pin.revision)
    has_weights = any((config.parent / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))
    return converted if converted.is_dir() and not has_weights else config.parent


def dataset_files(pin: Pin, names: Iterable[str]) -> list[Path]:
    """Return the paths of a pinned data set's files in the client's cache, each verified against its pin.

    Raises:
        HubError: when a file is missing or differs from its pin.
    """
    pinned, paths = {file.name: file for file in pin.files}, []
    for name in names:
        path = cached_file(pin.id, "dataset", pin.revision, name)
        if path is None:
            raise HubError(f"{_where(pin)}: {name} is not in the cache at {cache_folder()}; fetch it: --net 1")
        if name not in pinned or digest_file(path) != pinned[name].sha256:
            raise HubError(f"{_where(pin)}: {name} differs from the pinned file; remove {path}, then fetch it: --net 1")
        paths.append(path)
    return paths


def pin_folder(model_id: str, licence: str | None, sources: Mapping[str, Path]) -> Pin:
    """Return the pin of a model on disk, given its files by name; the revision is the digest of the files.

    Raises:
        CheckpointError: when a file cannot be read.
    """
    files = _sorted(PinnedFile(name, path.stat().st_size, digest_file(path)) for name, path in sources.items())
    pin = Pin(model_id, "", licence, files)
    return replace(pin, revision=str(pin.digest))


def _weights(listing: Listing, where: str, retries: RetryPolicy) -> tuple[str, ...]:
    """Return the names of the safetensors and their index, which is fetched for this; empty if there are none."""
    if SINGLE_FILE in listing.files:
        return (SINGLE_FILE,)
    if INDEX_FILE not in listing.files:
        return ()
    path, _ = fetch_file(listing, INDEX_FILE, retries)
    try:
        index = read_index(path.parent)
    except CheckpointError as error:
        raise HubError(f"{where}: {str(error).replace(f'{path.parent}/', '')}") from None
    assert index is not None
    shards = sorted(set(index.weight_map.values()))
    for shard in shards:
        if shard not in listing.files:
            raise HubError(f"{where}: {INDEX_FILE} names {shard}, which it does not have; pin another revision")
    return (*shards, INDEX_FILE)


def _pickled(listing: Listing, where: str, retries: RetryPolicy, *, allowed: bool) -> tuple[str, ...]:
    """Return the names of the pickled weights and their index, in a repository that has no other weights."""
    pickles = sorted(name for name in listing.files if _matches(name, PICKLES))
    if not pickles:
        raise HubError(f"{where}: neither {SINGLE_FILE} nor {INDEX_FILE}; name a repository with safetensors weights")
    if not allowed:
        raise HubError(
            f"{where}: weights as {pickles[0]} only, which can run code when they are read; allow them to be read as "
            "tensors alone (INVARLOCK_ALLOW_PICKLED_WEIGHTS=1), or convert them to safetensors, and use the folder "
            "(MODEL_1=FOLDER)"
        )
    if PICKLED_FILE in listing.files:
        return (PICKLED_FILE,)
    if PICKLED_INDEX not in listing.files:
        raise HubError(
            f"{where}: weights as {pickles[0]}, and neither {PICKLED_FILE} nor {PICKLED_INDEX}; convert them to "
            "safetensors, and use the folder (MODEL_1=FOLDER)"
        )
    path, _ = fetch_file(listing, PICKLED_INDEX, retries)
    try:
        shards = pickled_shards(path)
    except CheckpointError as error:
        raise HubError(f"{where}: {str(error).replace(f'{path.parent}/', '')}") from None
    for shard in shards:
        if shard not in listing.files:
            raise HubError(f"{where}: {PICKLED_INDEX} names {shard}, which it does not have; pin another revision")
    return (*shards, PICKLED_INDEX)


def _converted_folder(model_id: str, commit: str) -> Path:
    """Return the folder of a model's converted weights, next to its repository in the client's cache."""
    return repository_folder(model_id, "model") / "safetensors" / commit


def _converted(pin: Pin, pickled: Sequence[str], show: ShowLine) -> Pin:
    """Convert the pickles of a pin, unless that was done before, and return the pin of the result."""
    folder = _converted_folder(pin.id, pin.revision)
    source = model_folder(pin)
    kept = [file.name for file in pin.files if file.name not in pickled]
    try:
        if not folder.is_dir():
            some = f"{len(pickled)} files" if len(pickled) > 1 else pickled[0]
            show(f"{pin.id}: converting {some} to safetensors")
            _convert({name: source / name for name in pickled}, {name: source / name for name in kept}, folder)
        names = checkpoint_files(folder)
    except CheckpointError as error:
        raise HubError(f"{_where(pin)}: {error}") from None
    made = [recorded_file(folder / name, name) for name in names if name not in kept]
    files = {file.name: file for file in pin.files}
    return replace(
        pin,
        files=_sorted([*(files[name] for name in kept), *made]),
        converted_from=_sorted(files[name] for name in pickled),
    )


def _convert(pickles: Mapping[str, Path], others: Mapping[str, Path], folder: Path) -> None:
    try:
        convert_weights(pickles, others, folder)
    except CheckpointError:
        # another run with the same cache may have finished first
        if not folder.is_dir():
            raise


def _found(pin: Pin, kind: Kind, names: Iterable[str]) -> Pin:
    pinned = {file.name: file for file in pin.files}
    files = []
    for name in names:
        path = cached_file(pin.id, kind, pin.revision, name)
        if path is None and kind == "model" and (converted := _converted_folder(pin.id, pin.revision) / name).is_file():
            path = converted
        if path is None:
            raise HubError(f"{_where(pin)}: {name} is not in the cache at {cache_folder()}; fetch it: --net 1")
        file = recorded_file(path, name)
        if pinned.get(name, file) != file:
            raise HubError(f"{_where(pin)}: {name} differs from the pinned file; remove {path}, then fetch it: --net 1")
        files.append(file)
    return replace(pin, files=_sorted(files))


def _where(pin: Pin) -> str:
    return f"{pin.id} at {pin.revision}"


def _is_tokenizer(name: str) -> bool:
    return name in TOKENIZER_FILES or ("/" not in name and fnmatch.fnmatchcase(name, CHAT_TEMPLATES))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _sorted(files: Iterable[PinnedFile]) -> tuple[PinnedFile, ...]:
    return tuple(sorted(files, key=lambda file: file.name))


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f}" if size_bytes >= 100_000_000 else f"{size_bytes / 1e9:.3f}"
