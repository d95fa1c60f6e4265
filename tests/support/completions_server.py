"""A local completions server that computes its answers with a model, in the dialects of real servers.

Example::

    with serve_model(folder, Dialect("prompt_logprobs")) as server:
        main(["evaluate", "--subject-url", server.url, ...])
        server.requests                              # the requests it received
        server.misbehave = lambda answer: {}         # from now on

By default transformers computes the logits of a request; another engine can be used instead.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Logprobs = npt.NDArray[np.float32]
# Maps token ids to the logits of each position, (positions, vocabulary).
Engine = Callable[[Sequence[int]], npt.NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Dialect:
    """How a server returns logprobs: ``prompt_logprobs`` as in vLLM, or ``echo`` as in the older OpenAI API.

    An answer has at most ``most`` tokens per position. If ``takes_ids`` is false, a prompt must be text. With ``late``,
    each token gets the distribution for the position after it. ``bos`` is prepended to a text and omitted from the
    answer; llama-cpp-python's server behaves as with both ``late`` and ``bos``. ``refuses_with`` is the HTTP status for
    requests that the server does not support.
    """

    name: str
    most: int = 20
    takes_ids: bool = True
    late: bool = False
    bos: int | None = None
    refuses_with: int = 400


@dataclass
class Server:
    """A running server: how it answers, its simulated errors, and the requests that it received.

    ``misbehave`` takes an answer and returns a different one, or bytes that are not a valid answer. ``statuses`` are
    the HTTP statuses and headers of the next answers. ``facts`` (about its models), ``version`` and ``fingerprint``
    are what the server states about itself. The next ``cut`` answers are cut off halfway.
    """

    url: str
    dialect: Dialect
    misbehave: Callable[[dict[str, Any]], Any] | None = None
    names: Sequence[str] = ("m",)
    facts: dict[str, Any] = field(default_factory=dict)
    version: str | None = None
    fingerprint: str | None = None
    cut: int = 0
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def serve_model(folder: Path, dialect: Dialect) -> Iterator[Server]:
    """Serve a checkpoint with transformers."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    load: Any = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32, attn_implementation="eager").eval()
    loader: Any = PreTrainedTokenizerFast
    tokenizer = loader.from_pretrained(folder)

    def logits(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(input_ids=torch.tensor([list(ids)])).logits[0].float().numpy())

    with serve(logits, tokenizer, dialect) as server:
        yield server


@contextmanager
def serve(engine: Engine, tokenizer: Any, dialect: Dialect) -> Iterator[Server]:
    """Serve an engine, one request at a time, because llama.cpp aborts on the parallel requests that clients send."""
    texts = Texts(tokenizer)
    lock = threading.Lock()

    def alone(ids: Sequence[int]) -> npt.NDArray[np.floating[Any]]:
        with lock:
            return engine(ids)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._begin()
            models = {"data": [{"id": name, **server.facts} for name in server.names]}
            version = None if server.version is None else {"version": server.version}
            self._send({"/v1/models": models, "/version": version}.get(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._begin()
            server.requests.append(body)
            if server.statuses:
                status, headers = server.statuses.pop(0)
                self._send({"error": {"message": f"status {status}, {self.headers['Authorization']}"}}, status, headers)
                return
            if self.path != "/v1/completions":
                self._send(None)
                return
            try:
                answer: Any = _answer(alone, texts, server.dialect, body)
            except ValueError as error:
                self._send({"error": {"message": str(error)}}, server.dialect.refuses_with)
                return
            if server.fingerprint is not None:
                answer["system_fingerprint"] = server.fingerprint
            self._send(answer if server.misbehave is None else server.misbehave(answer))

        def _begin(self) -> None:
            server.keys.append(self.headers["Authorization"])

        def _send(self, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            data = document if isinstance(document, bytes) else json.dumps(document or {}).encode()
            self.send_response(404 if document is None else status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            # the client may have stopped waiting and closed the connection
            with suppress(OSError):
                breaks_off = server.cut > 0 and self.command == "POST"
                server.cut -= breaks_off
                self.wfile.write(data[: len(data) // 2] if breaks_off else data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_address[1]}", dialect)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class Texts:
    """The text of each token of a vocabulary as this server writes it: each token is decoded alone."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self.tokenizer.decode([token])
        return self._known[token]


def _answer(engine: Engine, texts: Texts, dialect: Dialect, body: dict[str, Any]) -> dict[str, Any]:
    prompt = body["prompt"]
    if not isinstance(prompt, str) and not dialect.takes_ids:
        raise ValueError("prompt: Input should be a valid string")
    ids = texts.tokenizer(prompt, add_special_tokens=False)["input_ids"] if isinstance(prompt, str) else list(prompt)
    hidden = 0
    if isinstance(prompt, str) and dialect.bos is not None:
        ids, hidden = [dialect.bos, *ids], 1
    if dialect.name == "prompt_logprobs":
        count = body.get("prompt_logprobs")
    else:
        count = body.get("logprobs") if dialect.name == "echo" and body.get("echo") else None
    if count is None:
        return {"choices": [{"text": "x", "logprobs": None}]}
    if count > dialect.most:
        raise ValueError(f"Requested logprobs of {count}, which is greater than max allowed: {dialect.most}")
    logits = np.asarray(engine(ids), dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    if dialect.name == "prompt_logprobs":
        rows: list[Any] = [None]
        for token, row in zip(ids[1:], logprobs, strict=False):
            top = [int(index) for index in np.argsort(-row)[:count]]
            rows.append({str(one): {"logprob": float(row[one]), "rank": 1} for one in dict.fromkeys([token, *top])})
        return {"choices": [{"text": "x", "prompt_logprobs": rows}]}
    shown = [texts.of(token) for token in ids]
    shift = 0 if dialect.late else 1
    values: list[Any] = [None] * len(ids)
    tables: list[Any] = [None] * len(ids)
    for place in range(1, len(ids)):
        row = logprobs[place - shift]
        table = {texts.of(int(one)): float(row[one]) for one in np.argsort(-row)[:count][::-1]}
        values[place] = float(row[ids[place]])
        tables[place] = {**table, shown[place]: values[place]}
    generated = int(logprobs[-1].argmax())
    shown, values, tables = (
        [*shown, texts.of(generated)], [*values, float(logprobs[-1].max())], [*tables, {}]
    )  # fmt: skip
    block = {"tokens": shown[hidden:], "token_logprobs": values[hidden:], "top_logprobs": tables[hidden:]}
    return {"choices": [{"text": "x", "logprobs": block}], "usage": {"prompt_tokens": len(ids)}}
