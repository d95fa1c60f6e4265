"""Times as documents hold them: UTC, to the second, such as ``2026-01-31T12:00:00Z``."""

from __future__ import annotations

from datetime import UTC, datetime

UTC_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def format_moment(moment: datetime) -> str:
    """Return the text of a time, in UTC and to the second; a time without a zone is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).strftime(UTC_FORMAT)


def utc_now() -> str:
    """Return the text of the present time, in UTC and to the second."""
    return format_moment(datetime.now(UTC))
