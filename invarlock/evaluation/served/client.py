"""An HTTP client of a completions server, with limits on time, attempts and bytes.

Example::

    client = Client(server_url("http://gpu-1:8000"), key=os.environ.get(KEY_VARIABLE))
    client.post("completions", {"model": "mistral", "prompt": [1, 2, 3], "max_tokens": 1})

It uses the standard library: httpx and requests come only with other packages, and not with all versions of them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from invarlock.errors import EvaluationError, UsageError
from invarlock.problems import Code

# Sent as a bearer token; it is never written anywhere.
KEY_VARIABLE = "INVARLOCK_SUBJECT_API_KEY"
# A server that loads a model or has a queue answers late; a server that takes longer than this hangs.
TIMEOUT_SECONDS = 300.0
# For optional requests about the server itself.
LOOK_SECONDS = 10.0
ATTEMPTS = 5
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
# A window of 2,048 tokens with 512 alternatives a position takes 60 MB.
MAX_BYTES = 1 << 28
MAX_WORDS = 200
CHUNK_BYTES = 1 << 16
BUSY = frozenset({429, 500, 502, 503, 504})
# Overload, or input that the server cannot read: llama-cpp-python answers token ids with it.
FAILED = 500
# The server refuses the request in this form; it may accept another form.
OTHER_FORM = frozenset({400, 413, 415, 422})
URL_CHARACTERS = re.compile("[!-~]{1,500}")


class ServerFailedError(EvaluationError):
    """A server keeps failing on a request; it may be able to answer the request in another form."""


class RequestRefusedError(Exception):
    """A server refuses a request in this form; the message is the server's."""


@dataclass(frozen=True)
class Client:
    """The API of a server; ``base`` is its URL with the version, such as ``http://gpu-1:8000/v1``."""

    base: str
    key: str | None = field(default=None, repr=False)
    timeout_seconds: float = TIMEOUT_SECONDS
    pause_seconds: float = PAUSE_SECONDS

    def get(self, path: str) -> Any:
        """Return the JSON document at a path.

        Raises:
            EvaluationError: if the server cannot be reached, or refuses the client.
            RequestRefusedError: if it refuses the request in this form.
        """
        return self._ask(Request(f"{self.base}/{path}"))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON document that answers a request; raises the errors of ``get``."""
        data = json.dumps(body).encode()
        return self._ask(Request(f"{self.base}/{path}", data, {"Content-Type": "application/json"}))

    def look(self, url: str) -> Any:
        """Return the JSON document at an optional URL of this server, after one attempt; None if it fails."""
        request = Request(url, headers={"Accept": "application/json"})
        if self.key is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        try:
            return json.loads(replace(self, timeout_seconds=min(self.timeout_seconds, LOOK_SECONDS))._once(request))
        except (HTTPException, OSError, ValueError, RecursionError, EvaluationError):
            return None

    def _ask(self, request: Request) -> Any:
        request.add_header("Accept", "application/json")
        if self.key is not None:
            # not sent along with a redirect to another host
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._parsed(self._once(request))
            except HTTPError as error:
                with error:
                    words = self._words(error)
                if error.code not in BUSY or attempt == ATTEMPTS:
                    raise self._refusal(error.code, words) from None
                time.sleep(self._pause(attempt, error.headers))
            except URLError as error:
                reason = error.reason
                raise self._unreachable(_late(self) if isinstance(reason, TimeoutError) else str(reason)) from None
            except TimeoutError:
                raise self._unreachable(_late(self)) from None
            except (HTTPException, OSError, ValueError) as error:
                # the connection broke off
                if attempt == ATTEMPTS:
                    raise self._unreachable(f"{type(error).__name__}: {error}") from None
                time.sleep(self._pause(attempt, None))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, request: Request) -> bytes:
        deadline = time.monotonic() + self.timeout_seconds
        with _opener().open(request, timeout=self.timeout_seconds) as response:
            return _read(response, deadline)

    def _pause(self, attempt: int, headers: Message | None) -> float:
        stated = "" if headers is None else headers.get("Retry-After", "")
        seconds = float(stated) if stated.isascii() and stated.isdigit() else self.pause_seconds * 2 ** (attempt - 1)
        return min(seconds, LONGEST_PAUSE_SECONDS)

    def _words(self, error: HTTPError) -> str:
        """Return the server's message of an error, on one line and without the key."""
        try:
            text = error.read(CHUNK_BYTES).decode(errors="replace")
        except (OSError, HTTPException):
            text = ""
        try:
            document = json.loads(text)
            found = document.get("error", document.get("message", document.get("detail", text)))
            text = str(found.get("message", found) if isinstance(found, dict) else found)
        except (ValueError, AttributeError, RecursionError):
            pass
        return self._shown(text) or str(error.reason)

    def _shown(self, text: str) -> str:
        if self.key:
            text = text.replace(self.key, "***")
        return " ".join(text.split())[:MAX_WORDS]

    def _refusal(self, status: int, words: str) -> Exception:
        if status in OTHER_FORM:
            return RequestRefusedError(words)
        advice = {
            401: f"set the environment variable {KEY_VARIABLE}",
            403: f"set the environment variable {KEY_VARIABLE}",
            404: "check the path of --subject-url, and --subject-model",
        }.get(status, "look at the server's log")
        if 300 <= status < 400:
            advice = "it redirects: give the URL that it redirects to"
        kind = ServerFailedError if status == FAILED else EvaluationError
        return kind(f"{self.base}: the server answers {status} ({words}); {advice}", code=Code.SERVER_UNREACHABLE)

    def _unreachable(self, reason: str) -> EvaluationError:
        return EvaluationError(
            f"{self.base}: no answer ({self._shown(reason)}); check that the server runs, and --subject-url",
            code=Code.SERVER_UNREACHABLE,
        )

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise unusable(self.base, "its answer is not JSON") from None


def server_url(text: str) -> str:
    """Return the URL of a server's API; ``/v1`` is added if it has no path.

    Raises:
        UsageError: if it has another scheme, credentials, a query or a fragment.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https") or not URL_CHARACTERS.fullmatch(text):
        raise UsageError(
            "--subject-url: not the URL of a server; give http://HOST:PORT or http://HOST:PORT/v1",
            code=Code.USAGE_INVALID,
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            "--subject-url: credentials, a query or a fragment in a URL would end up in reports; give the key in the "
            f"environment variable {KEY_VARIABLE}",
            code=Code.USAGE_INVALID,
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}{path or '/v1'}"


def unusable(base: str, what: str) -> EvaluationError:
    """Return the error for an answer that cannot be measured."""
    return EvaluationError(
        f"{base}: {what}; use a server that returns the log-probabilities of a prompt (docs/served.md)",
        code=Code.SERVER_ANSWER_UNUSABLE,
    )


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        """Refuse a redirect: another server than the one in the report would answer."""


def _opener() -> OpenerDirector:
    return build_opener(_NoRedirect)


def _read(response: HTTPResponse, deadline: float) -> bytes:
    parts, size = [], 0
    while part := response.read1(CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise EvaluationError(
                f"the server's answer is longer than {MAX_BYTES >> 20} MiB; use a smaller --top-k or --seq-len",
                code=Code.SERVER_ANSWER_UNUSABLE,
            )
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise HTTPException(f"{response.length} bytes are missing")
    return b"".join(parts)


def _late(client: Client) -> str:
    return f"none within {client.timeout_seconds:g} seconds"
