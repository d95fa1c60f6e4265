"""Functions that make the hub client use a local hub and a separate cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import Hub
from huggingface_hub import constants


def point_client_at(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the client in this process at a hub and a cache.

    The client reads HF_ENDPOINT and HF_HUB_CACHE only when it is imported, so this sets the constants that they define.
    """
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def client_environment(hub: Hub, cache: Path) -> dict[str, str]:
    """Return the environment variables that point the client in another process at a hub and a cache."""
    return {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
