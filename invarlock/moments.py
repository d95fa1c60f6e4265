"""Times in documents: UTC with a resolution of one second, such as ``2026-01-31T12:00:00Z``."""

from __future__ import annotations

from datetime import UTC, datetime

UTC_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def format_moment(moment: datetime) -> str:
    """Return a time as text, in UTC and to the second; a time without a zone is taken as UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime(UTC_FORMAT)


def utc_now() -> str:
    """Return the current time as text, in UTC and to the second."""
    return format_moment(datetime.now(UTC))
