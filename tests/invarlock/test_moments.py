from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from invarlock.moments import format_moment, utc_now


def test_a_time_is_written_in_utc_to_the_second() -> None:
    moment = datetime(2026, 1, 31, 13, 30, 5, 999_999, timezone(timedelta(hours=1, minutes=30)))

    assert format_moment(moment) == "2026-01-31T12:00:05Z"
    assert format_moment(datetime(2026, 1, 31)) == "2026-01-31T00:00:00Z"


def test_now_reads_back_as_now() -> None:
    before = datetime.now(UTC).replace(microsecond=0)

    assert before <= datetime.fromisoformat(utc_now()) <= datetime.now(UTC)
