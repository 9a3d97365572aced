"""Registered cameras."""

from __future__ import annotations

from models.entities import CameraConfiguration
from repositories.base import Repository


class CameraConfigRepository(Repository[CameraConfiguration]):
    entity = CameraConfiguration
