"""Pointing the hub's client of this process at a local hub and at a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import Hub
from huggingface_hub import constants


def point_client_at(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reads its variables when it is imported; this is what HF_ENDPOINT and HF_HUB_CACHE set then."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def client_environment(hub: Hub, cache: Path) -> dict[str, str]:
    """Return the variables that do the same for another process."""
    return {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
