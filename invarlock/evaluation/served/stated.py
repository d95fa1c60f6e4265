"""What a server says about itself and its model. These facts are unverified, and never include the server's address.

Example::

    stated_by(client, "mistral", "b5310-8e5d2f1")
    # {"version": "0.11.0", "owned_by": "vllm", "context_tokens": "4096", "fingerprint": "b5310-8e5d2f1"}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from invarlock.evaluation.served.client import Client

MAX_CHARACTERS = 200
WITHHELD = "***"
API_VERSION = "/v1"
# Facts from a row of ``/v1/models``: our name, and the path of keys in answers of vLLM, llama.cpp, Ollama and the like.
OF_THE_MODEL: Mapping[str, tuple[str, ...]] = {
    "owned_by": ("owned_by",),
    "context_tokens": ("max_model_len",),
    "quantisation": ("quantization",),
    "parameters": ("meta", "n_params"),
    "bytes": ("meta", "size"),
}
_PATH = re.compile(r"[/~]|[A-Za-z]:[/\\]|\\\\")


def stated_by(client: Client, model: str, fingerprint: object = None) -> dict[str, str]:
    """Return what a server says about a model and itself, as short texts by name; missing facts are left out.

    Args:
        client: the client of the server.
        model: the server's name for the model.
        fingerprint: the ``system_fingerprint`` of an answer.
    """
    found: dict[str, object] = {}
    if client.base.endswith(API_VERSION):
        answer = client.look(f"{client.base.removesuffix(API_VERSION)}/version")
        found["version"] = _at(answer, ("version",))
    row = _row(client.look(f"{client.base}/models"), model)
    found |= {name: _at(row, keys) for name, keys in OF_THE_MODEL.items()}
    found["fingerprint"] = fingerprint
    texts = {name: public_text(value, client) for name, value in found.items()}
    return {name: text for name, text in texts.items() if text}


def public_text(value: object, client: Client) -> str:
    """Return a server's text without its address, the key, folders and control characters, fit for a report.

    A value that is neither a text nor a number becomes empty.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value)[: 10 * MAX_CHARACTERS]
    if "://" in text:
        return WITHHELD
    if _PATH.match(text):
        # the names of folders on a server may be private
        text = (PureWindowsPath(text) if "\\" in text else PurePosixPath(text)).name
    if client.key:
        text = text.replace(client.key, WITHHELD)
    for host in filter(None, _hosts(client)):
        # matched as a whole word, since a host may be called "m"
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(host)}(?![A-Za-z0-9])", WITHHELD, text, flags=re.IGNORECASE)
    return "".join(filter(str.isprintable, text))[:MAX_CHARACTERS].strip()


def _hosts(client: Client) -> tuple[str, ...]:
    parts = urlsplit(client.base)
    return parts.netloc, parts.hostname or ""


def _row(document: Any, model: str) -> Any:
    rows = document.get("data") if isinstance(document, dict) else None
    named = (row for row in rows if isinstance(row, dict) and row.get("id") == model) if isinstance(rows, list) else ()
    return next(iter(named), None)


def _at(document: Any, keys: tuple[str, ...]) -> object:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document
