"""Accesses the hub through its own client: lists a repository at a commit, and fetches and verifies its files.

Example::

    listing = list_repository("mistralai/Mistral-7B-v0.1", "model", None)
    path, file = fetch_file(listing, "config.json")      # in the client's cache; its bytes are those listed

The client decides where the hub and the cache are, and handles tokens, proxies and the transport (``HF_ENDPOINT``,
``HF_HUB_CACHE``, ``HF_TOKEN``, …). This module adds the retries and the verification that the client lacks: a file
whose size or hash differs from the repository's listing is removed from the cache.
"""

from __future__ import annotations

import errno
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub import errors as client
from huggingface_hub.file_download import repo_folder_name

from invarlock.catalog.pins import PinnedFile
from invarlock.checkpoints.digests import digest_file
from invarlock.errors import HubError

Kind = Literal["model", "dataset"]
Result = TypeVar("Result")

# A repository of a thousand files is listed in a second; a request that takes longer than this is retried.
LISTING_TIMEOUT_SECONDS = 30.0
# Statuses that are worth a retry: the hub is busy or broken, but the request is valid.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# Errors of the disk under the cache, not of the hub.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
# A failed connection is retried once, because the network may just be coming up.
UNREACHABLE = frozenset({"ConnectError", "ConnectionError", "gaierror", "NameResolutionError", "ProxyError"})
UNREACHABLE_ATTEMPTS = 2
MAX_REASON_CHARACTERS = 160

# The HTTP library of the client has changed twice, and with it the base class of connection errors.
_CLIENT_ERRORS: tuple[type[BaseException], ...] = (OSError, *client.HfHubHTTPError.__bases__)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RetryPolicy:
    """How often an operation is tried; the wait doubles each time."""

    attempts: int = 5
    first_wait_seconds: float = 1.0


RETRY_POLICY = RetryPolicy()


@dataclass(frozen=True)
class RemoteFile:
    """A file in a repository's listing: large files have a sha256, small ones the hash by which git identifies them."""

    name: str
    size_bytes: int
    sha256: str | None
    blob_sha1: str | None


@dataclass(frozen=True)
class Listing:
    """The content of a repository at a commit."""

    repo_id: str
    kind: Kind
    commit: str
    licence: str | None
    files: Mapping[str, RemoteFile]


class _WrongFileError(OSError):
    """The received file is not the listed one."""


def list_repository(repo_id: str, kind: Kind, revision: str | None, retries: RetryPolicy = RETRY_POLICY) -> Listing:
    """Return the content of a repository at a revision; None means its main branch.

    Raises:
        HubError: when the repository is missing, private, gated or renamed, or the hub cannot be reached.
    """
    api = HfApi()

    def ask() -> Any:
        info: Any = api.repo_info(
            repo_id, repo_type=kind, revision=revision, files_metadata=True, timeout=LISTING_TIMEOUT_SECONDS
        )
        if info.gated:
            api.auth_check(repo_id, repo_type=kind)
        return info

    where = repo_id if revision is None else f"{repo_id} at {revision}"
    info = _retried(ask, where, retries)
    if info.id != repo_id:
        raise HubError(f"{repo_id}: the hub calls it {info.id!r} now; use that name")
    if not _COMMIT.fullmatch(str(info.sha)):
        raise HubError(f"{where}: the hub names no commit; is HF_ENDPOINT a hub?")
    return Listing(
        repo_id=repo_id,
        kind=kind,
        commit=info.sha,
        licence=_licence(getattr(info.card_data, "license", None)),
        files={row.rfilename: _remote_file(row) for row in info.siblings or ()},
    )


def fetch_file(listing: Listing, name: str, retries: RetryPolicy = RETRY_POLICY) -> tuple[Path, PinnedFile]:
    """Return the path of a repository's file in the client's cache, fetched if needed, and its pin.

    Raises:
        HubError: when the hub lacks the file, cannot be reached, or keeps sending other bytes than it lists.
    """
    remote = listing.files[name]

    def fetch() -> tuple[Path, PinnedFile]:
        path = Path(hf_hub_download(listing.repo_id, name, repo_type=listing.kind, revision=listing.commit))
        try:
            return path, _verified(path, remote)
        except _WrongFileError:
            _forget(path)
            raise

    return _retried(fetch, f"{listing.repo_id} at {listing.commit}: {name}", retries)


def cached_file(repo_id: str, kind: Kind, commit: str, name: str) -> Path | None:
    """Return the path of a file in the client's cache, or None if it is not cached; makes no connection."""
    found = try_to_load_from_cache(repo_id, name, revision=commit, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def cached_names(repo_id: str, kind: Kind, commit: str) -> list[str]:
    """Return the names of a repository's files at a commit that are in the client's cache, sorted."""
    folder = repository_folder(repo_id, kind) / "snapshots" / commit
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def recorded_file(path: Path, name: str) -> PinnedFile:
    """Return the pin of a file in the client's cache.

    The cache names a large file by its sha256. That name is trusted here and verified when the file is used; any other
    file is hashed.
    """
    blob = path.resolve().name
    digest = blob if path.is_symlink() and _SHA256.fullmatch(blob) else digest_file(path)
    return PinnedFile(name, path.stat().st_size, digest)


def repository_folder(repo_id: str, kind: Kind) -> Path:
    """Return the folder of a repository in the client's cache."""
    return cache_folder() / repo_folder_name(repo_id=repo_id, repo_type=kind)


def cache_folder() -> Path:
    """Return the folder of the client's cache."""
    return Path(constants.HF_HUB_CACHE)


def _licence(said: Any) -> str | None:
    """Return the licence in a repository's card, which may be a list."""
    return ", ".join(map(str, said)) if isinstance(said, list) else None if said is None else str(said)


def _remote_file(row: Any) -> RemoteFile:
    lfs = row.lfs
    if lfs is None:
        return RemoteFile(row.rfilename, int(row.size or 0), None, row.blob_id)
    return RemoteFile(row.rfilename, int(lfs.size), lfs.sha256, None)


def _verified(path: Path, remote: RemoteFile) -> PinnedFile:
    """Return the pin of a file after checking that its size and hash match the listing."""
    size_bytes = path.stat().st_size
    if size_bytes != remote.size_bytes:
        raise _WrongFileError(f"it has {size_bytes} bytes, the hub lists {remote.size_bytes}")
    digest = digest_file(path)
    if remote.sha256 is not None and digest != remote.sha256:
        raise _WrongFileError(f"its sha256 is {digest}, the hub lists {remote.sha256}")
    if remote.sha256 is None and remote.blob_sha1 != (found := _blob_sha1(path)):
        raise _WrongFileError(f"its git hash is {found}, the hub lists {remote.blob_sha1}")
    return PinnedFile(remote.name, size_bytes, digest)


def _blob_sha1(path: Path) -> str:
    """Return the hash by which git identifies a file's bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _forget(path: Path) -> None:
    """Remove a file from the cache: its name in the snapshot, and the file it links to."""
    while True:
        target = path.parent / path.readlink() if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if target is None:
            return
        path = target


def _retried(call: Callable[[], Result], where: str, retries: RetryPolicy) -> Result:
    wait = retries.first_wait_seconds
    for attempt in range(1, retries.attempts + 1):
        try:
            return call()
        except _CLIENT_ERRORS as error:
            last = UNREACHABLE_ATTEMPTS if type(_cause(error)).__name__ in UNREACHABLE else retries.attempts
            if attempt >= last or not _passes(error):
                _refuse(error, where, attempt)
        time.sleep(wait)
        wait *= 2
    raise AssertionError("the last attempt returns or raises")


def _passes(error: BaseException) -> bool:
    """Return whether an error may be temporary."""
    cause = _cause(error)
    status = _status(cause)
    if isinstance(cause, client.OfflineModeIsEnabled) or _is_of_the_disk(cause):
        return False
    return status is None or status in PASSING_STATUS


def _is_of_the_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_ERRORS


def _cause(error: BaseException) -> BaseException:
    """Return the original error: the client wraps it if it then finds nothing in its cache."""
    wrapped = isinstance(error, client.LocalEntryNotFoundError) and error.__cause__ is not None
    return error.__cause__ or error if wrapped else error


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _refuse(error: BaseException, where: str, attempts: int) -> NoReturn:
    cause = _cause(error)
    if isinstance(cause, client.GatedRepoError):
        raise HubError(
            f"{where}: gated; accept its terms at the hub and set HF_TOKEN, or use a folder on disk (MODEL_1=FOLDER)"
        ) from None
    if isinstance(cause, client.RepositoryNotFoundError):
        raise HubError(
            f"{where}: no such repository, or a private one; correct the id, or set HF_TOKEN to one that may read it"
        ) from None
    if isinstance(cause, client.RevisionNotFoundError):
        raise HubError(f"{where}: no such revision; correct the pin") from None
    if isinstance(cause, client.OfflineModeIsEnabled):
        raise HubError(f"{where}: HF_HUB_OFFLINE is set; unset it, or leave --net 1 out") from None
    if isinstance(cause, client.EntryNotFoundError) and _status(cause) is not None:
        raise HubError(f"{where}: the hub lists the file and does not have it; pin another revision") from None
    if _is_of_the_disk(cause):
        assert isinstance(cause, OSError)
        raise HubError(
            f"{where}: cannot be written to the cache at {cache_folder()} ({cause.strerror}); free some space, or name "
            "another folder with HF_HUB_CACHE"
        ) from None
    reason = " ".join(re.sub(r"\?\S+", "", str(cause) or type(cause).__name__).split())[:MAX_REASON_CHARACTERS]
    tries = f"tried {attempts} times; " if attempts > 1 else ""
    raise HubError(f"{where}: cannot be fetched ({reason}); {tries}check the connection, then run again") from None
