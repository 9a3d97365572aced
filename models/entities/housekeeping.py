"""How far the sweeper has come, how long frames are kept, and how much is stored."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Date, Identity, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, Json, created_now, one_of


class SweeperState(Base):
    """The one row that says how far the sweeper's pass over the bucket has come, whichever process runs it."""

    __tablename__ = "sweeper_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    cursor: Mapped[str] = mapped_column(server_default=text("''"))  # the last key of this pass so far
    seen: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # objects of this pass
    orphans: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # those of them without a row
    stopped: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))  # this pass condemns nothing more
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]  # of the last pass that came to its end
    places: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))  # orphans of the cursor's folder and day

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class RetentionPolicy(Base):
    """The one row that says how long frames are kept: every process reads it, whatever its own settings are."""

    __tablename__ = "retention_policy"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    days: Mapped[float | None]  # null: for ever
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)  # null: no limit
    max_share_per_day: Mapped[float]
    set_at: Mapped[datetime] = created_now()

    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("days > 0 AND max_bytes > 0", name="limits"),  # null passes
        CheckConstraint("max_share_per_day > 0 AND max_share_per_day <= 1", name="share"),
    )


class RetentionTally(Base):
    """What retention deletes of a camera in one day (of the database's clock, UTC)."""

    __tablename__ = "retention_tallies"

    camera_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date)
    frames: Mapped[int] = mapped_column(BigInteger)  # that the camera has had on this day: counted, and deleted
    deleted: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    capped: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))  # more was to be deleted than may be

    __table_args__ = (CheckConstraint("frames >= 0 AND deleted >= 0", name="counts"),)


class SecretCanary(Base):
    """A key that something rests encrypted with; `canary`: a known text under it, null for a key of before."""

    __tablename__ = "secret_canaries"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    canary: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class SchemaStep(Base):
    """A migration that was made (repositories/migrations/steps.py), for a process whose code does not know it."""

    __tablename__ = "schema_steps"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # their order
    revision: Mapped[str] = mapped_column(unique=True)
    phase: Mapped[str]
    safe_from: Mapped[str | None]  # of a contract: the first release whose code does without what went
    made_at: Mapped[datetime] = created_now()

    __table_args__ = (CheckConstraint(one_of("phase", ("expand", "contract")), name="phase"),)


class StorageUsage(Base):
    """The one row with the bytes of all stored frames, but for the changes in `storage_changes`."""

    __tablename__ = "storage_usage"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    frames: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class StorageChange(Base):
    """A frame that came or went: written by a trigger on `frames`, summed up into `storage_usage` by retention."""

    __tablename__ = "storage_changes"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    frames: Mapped[int] = mapped_column(Integer)
