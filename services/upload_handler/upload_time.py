"""When light hit the sensor, as well as an upload can say."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from models.values import TimestampSource

_EXIF_TIME = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"([+-])(\d{1,2}):?(\d\d)")
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class UploadTime(NamedTuple):
    """`uncertainty_ms`: the moment lies in [at, at + uncertainty]; None: nobody knows."""

    at: datetime  # UTC
    source: TimestampSource
    uncertainty_ms: float | None


def _offset(text: str | None) -> timezone | None:
    if text in ("Z", "z"):
        return UTC
    match = _OFFSET.fullmatch(text or "")
    if match is None or int(match[2]) > 14 or int(match[3]) > 59:
        return None
    delta = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-delta if match[1] == "-" else delta)


def _exif_time(exif: dict[str, Any], zone: ZoneInfo, arrived_at: datetime) -> UploadTime | None:
    match = _EXIF_TIME.match(exif.get("time_original") or "")
    if match is None:
        return None
    offset = _offset(exif.get("offset"))
    digits = re.match(r"\d{1,9}", exif.get("sub_second") or "")
    fraction = digits.group() if digits else ""
    year, month, day, hour, minute, second = map(int, match.groups())
    # Some cameras write the hour after midnight as 24 of the same day; second 60 is the next minute's first.
    hour = 0 if hour == 24 else hour
    leap = second == 60
    try:
        local = datetime(year, month, day, hour, minute, second - leap, int(fraction[:6].ljust(6, "0")))  # noqa: DTZ001
        local += timedelta(seconds=leap)
        # Without an offset an hour that occurs twice is taken as its first, one that does not exist as if the
        # clock had not been changed yet: both in `fold=0`.
        at = local.replace(tzinfo=offset or zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    if not _EARLIEST <= at <= arrived_at + timedelta(days=1):
        return None
    resolution = 1000.0 / 10 ** min(len(fraction), 6)  # the camera cuts off what it does not write
    return UploadTime(at, TimestampSource.EXIF, resolution if offset else None)


def needs_zone(timestamp_ref: datetime | None, exif: dict[str, Any] | None) -> bool:
    """Whether the time depends on the zone: EXIF says one, without an offset."""
    return timestamp_ref is None and bool(exif and exif.get("time_original")) and _offset((exif or {}).get("offset")) is None


def upload_time(
    timestamp_ref: datetime | None, exif: dict[str, Any] | None, zone: ZoneInfo, arrived_at: datetime
) -> UploadTime:
    """The client's word, else EXIF with its offset, else EXIF in `zone`, else the arrival.

    Uncertainties: client and arrival None; EXIF with an offset the resolution of what it wrote (1000 ms without
    sub-seconds; how wrong the camera's clock was set is not in it); EXIF without an offset None. An EXIF time
    before 1970 or more than a day after the arrival is a clock that was never set: arrival.
    """
    if timestamp_ref is not None:
        return UploadTime(timestamp_ref.astimezone(UTC), TimestampSource.CLIENT, None)
    found = _exif_time(exif, zone, arrived_at) if exif else None
    return found or UploadTime(arrived_at.astimezone(UTC), TimestampSource.UPLOAD, None)
