"""The names of a subject and its baseline in the documents for other tools, and what their maker may add."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from invarlock.packer.receivers.subjects import PackSubject

from invarlock.errors import UsageError
from invarlock.problems import Code

MAX_NAME_CHARACTERS = 200

_URL = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%+,=@/-]*)?")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Presentation:
    """Facts that a pack does not have: the name of the model and the pack's address; None if they are not given."""

    name: str | None = None
    pack_url: str | None = None

    def check(self) -> None:
        """Check that the name and the address can be used in any document.

        Raises:
            UsageError: when one of them cannot.
        """
        if self.pack_url is not None and not _URL.fullmatch(self.pack_url):
            raise UsageError(
                f"--pack-url: {self.pack_url[:200]!r} is not a plain https address; give one without spaces, quotes, "
                "brackets and query",
                code=Code.USAGE_INVALID,
            )
        name = self.name
        if name is not None and not (0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()):
            raise UsageError(
                f"--name: {name[:50]!r} is empty, longer than {MAX_NAME_CHARACTERS} characters or not printable",
                code=Code.USAGE_INVALID,
            )


def model_name(subject: PackSubject, given: Presentation) -> str:
    """Return the given name of the subject, or by default the name of its case."""
    return given.name or subject.name


def hub_baseline(report: Mapping[str, Any]) -> str | None:
    """Return the baseline's id on the Hugging Face hub, or None if it did not come from there.

    A baseline from the hub is pinned by a commit; one from a folder has a digest as its revision.
    """
    name, revision = report["meta"]["model_id"], report["meta"]["revision"]
    return name if _HUB_ID.fullmatch(name) and revision and _COMMIT.fullmatch(revision) else None


def storage_of(report: Mapping[str, Any], side: str) -> Mapping[str, Any] | None:
    """Return how ``subject`` or ``baseline`` is stored, or None if its files were not read."""
    raw = report["invariants"].get("raw")
    return None if raw is None else raw[side]["storage"]
