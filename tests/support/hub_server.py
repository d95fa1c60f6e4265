"""A local server with the part of the hub's HTTP interface that downloads need. It can misbehave on request.

Example::

    with serve_hub() as hub:
        hub.add(Repository.of_folder("org/model", folder))
        hub.misbehave("config.json", Answer(503), Answer(503))    # the next two times; then all is well

Large files are answered as the hub does: a redirect to a second host name with size and sha256 in its headers.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin", ".parquet")
TOKEN = "hf_local"

_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(auth-check|revision/(.+)))?")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(frozen=True)
class Repository:
    """A repository: the files of its single commit, and who may read it."""

    id: str
    files: Mapping[str, bytes]
    kind: str = "model"
    licence: str = "apache-2.0"
    gated: bool = False
    private: bool = False

    @classmethod
    def of_folder(cls, repo_id: str, *folders: Path, **more: Any) -> Repository:
        files = {path.name: path.read_bytes() for folder in folders for path in folder.iterdir() if path.is_file()}
        return cls(repo_id, files, **more)

    @property
    def commit(self) -> str:
        lines = [f"{name} {hashlib.sha1(data).hexdigest()}" for name, data in sorted(self.files.items())]
        return hashlib.sha1("\n".join(lines).encode()).hexdigest()

    def info(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sha": self.commit,
            "private": self.private,
            "gated": "auto" if self.gated else False,
            "cardData": {"license": self.licence},
            "siblings": [self._sibling(name, data) for name, data in sorted(self.files.items())],
        }

    def _sibling(self, name: str, data: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        row: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
        if name.endswith(LARGE_SUFFIXES):
            row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return row


@dataclass(frozen=True)
class Answer:
    """One abnormal answer that the server gives instead of the normal one.

    Args:
        status: an HTTP status to send instead of the file.
        data: bytes that differ from those in the listing, sent with their true length.
        drop_after: the number of bytes of the body after which the connection is closed.
        wait_seconds: the delay before the first byte.
    """

    status: int | None = None
    data: bytes | None = None
    drop_after: int | None = None
    wait_seconds: float = 0.0


@dataclass
class Hub:
    """The server's repositories, and the requests it received."""

    url: str
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens_at_storage: list[str] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))

    def add(self, repository: Repository) -> Repository:
        self.repositories[repository.kind, repository.id] = repository
        return repository

    def misbehave(self, name: str, *answers: Answer) -> None:
        """Use these answers, in order, for requests for the body of a file or for the listing of a repository."""
        self.answers[name] += answers

    def next_answer(self, name: str) -> Answer | None:
        waiting = self.answers[name]
        return waiting.pop(0) if waiting else None

    @property
    def storage_url(self) -> str:
        """The URL of this server under a second host name, like the hub's storage, to which no token may be sent."""
        return self.url.replace("127.0.0.1", "localhost")


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve a hub at 127.0.0.1 until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]  # the handler has no other way to it
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if path.startswith("/storage/"):
            self._storage(path)
        elif (match := _API.fullmatch(path)) is not None:
            self._listing(match[1], match[2], match[3], match[4])
        elif (match := _FILE.fullmatch(path)) is not None:
            self._file("dataset" if match[1] else "model", match[2], match[3], match[4])
        else:
            self._refuse(404, "RepoNotFound")

    def _may_read(self, repository: Repository | None) -> bool:
        with_token = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not with_token):
            # the hub does not reveal to an unauthorised client whether a repository exists
            self._refuse(401, "RepoNotFound")
            return False
        return True

    def _is_gated(self, repository: Repository) -> bool:
        gated = repository.gated and self.headers.get("authorization") != f"Bearer {TOKEN}"
        if gated:
            self._refuse(401, "GatedRepo")
        return gated

    def _listing(self, kind: str, repo_id: str, more: str | None, revision: str | None) -> None:
        if repo_id in self.hub.renamed:
            new = self.path.replace(repo_id, self.hub.renamed[repo_id])
            self._send(307, b"", {"Location": new})
            return
        repository = self.hub.repositories.get((kind, repo_id))
        if not self._may_read(repository):
            return
        assert repository is not None
        answer = self.hub.next_answer(repo_id)
        if answer is not None:
            self._misbehave(answer, b"{}")
        elif more == "auth-check":
            if not self._is_gated(repository):
                self._send(200, b"OK", {})
        elif revision not in (None, "main", repository.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            self._send(200, json.dumps(repository.info()).encode(), {"Content-Type": "application/json"})

    def _file(self, kind: str, repo_id: str, revision: str, name: str) -> None:
        repository = self.hub.repositories.get((kind, repo_id))
        if not self._may_read(repository):
            return
        assert repository is not None
        if self._is_gated(repository):
            return
        if revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound")
            return
        if name not in repository.files:
            self._refuse(404, "EntryNotFound")
            return
        data = repository.files[name]
        listed = repository._sibling(name, data)
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{listed["blobId"]}"'}
        if "lfs" in listed:
            sha256 = listed["lfs"]["sha256"]
            headers["X-Linked-Etag"] = f'"{sha256}"'
            headers["X-Linked-Size"] = str(len(data))
            headers["Location"] = f"{self.hub.storage_url}/storage/{sha256}?signature=secret"
            self._send(302, b"", headers)
        else:
            self._body(name, data, headers)

    def _storage(self, path: str) -> None:
        self.hub.tokens_at_storage += [value for key, value in self.headers.items() if key.lower() == "authorization"]
        for repository in self.hub.repositories.values():
            for name, data in repository.files.items():
                if hashlib.sha256(data).hexdigest() == path.removeprefix("/storage/"):
                    self._body(name, data, {})
                    return
        self._refuse(404, "EntryNotFound")

    def _body(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        answer = self.hub.next_answer(name) if self.command == "GET" else None
        if answer is not None:
            self._misbehave(answer, data)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if wanted is None:
            self._send(200, data, headers)
            return
        start = int(wanted[1])
        self._send(206, data[start:], {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})

    def _misbehave(self, answer: Answer, data: bytes) -> None:
        time.sleep(answer.wait_seconds)
        if answer.status is not None:
            self._send(answer.status, b"out of order", {})
        elif answer.drop_after is not None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: answer.drop_after])
            self.close_connection = True
        else:
            self._send(200, data if answer.data is None else answer.data, {})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            # the client may have timed out and closed the connection
            self.close_connection = True


def with_other_file(repository: Repository, name: str, data: bytes) -> Repository:
    """Return a repository with one file changed, and therefore with another commit."""
    return replace(repository, files={**repository.files, name: data})
