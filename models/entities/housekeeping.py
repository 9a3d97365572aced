"""How far the sweeper has come, and how much is stored."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Identity, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base


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

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


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
