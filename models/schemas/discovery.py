"""Finding cameras: a search of the network, and one device's streams."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from models.schemas.base import NullIsAbsent, Output


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise PydanticCustomError("network", "must be a network such as 192.168.1.0/24, without host bits") from None
    return value


NetworkText = Annotated[str, Field(min_length=3, max_length=49, examples=["192.168.1.0/24"]), AfterValidator(_network)]
_Login = Annotated[str, Field(max_length=200)]


class DiscoverRequest(NullIsAbsent):
    """POST /api/v1/cameras/discover."""

    timeout_s: float = Field(3, gt=0, le=10, description="Seconds: of a search; with `address`, for each answer.")
    networks: list[NetworkText] | None = Field(
        None, min_length=1, max_length=16,
        description="Only answers from there count, and each address in them, at most 1024, is asked by itself.",
    )  # fmt: skip
    address: str | None = Field(
        None, min_length=1, max_length=500, pattern=r"^[!-~]+$", examples=["192.168.1.20"],
        description="One device: its IP address or name, with `:port` where it is not 80, or the `xaddr` of a search.",
    )  # fmt: skip
    username: _Login | None = None
    password: Annotated[SecretStr, Field(max_length=200)] | None = None

    site: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = Field("default", description="Whose workers look.")

    @model_validator(mode="after")
    def _fits(self) -> DiscoverRequest:
        if self.address is None and (self.username is not None or self.password is not None):
            raise PydanticCustomError("address_missing", "username and password are for an address")
        if self.address is not None and self.networks is not None:
            raise PydanticCustomError("address_and_networks", "give either an address or networks")
        if (self.username is None) != (self.password is None):
            raise PydanticCustomError("half_a_login", "give username and password, or neither")
        return self


class MediaProfile(Output):
    """One stream of a device."""

    token: str
    name: str | None
    codec: str | None = Field(description="h264, h265, mjpeg, mpeg4, or the device's own word.")
    width: int | None
    height: int | None
    fps: float | None
    bitrate_bps: int | None
    rtsp_url: str | None = Field(description="Without login and query; null: the device gave none that is allowed.")
    rtsp_ref: str | None = Field(
        description="Stands for the whole URL with the login: give it to POST /api/v1/cameras as `rtsp_ref`, within an hour."
    )
    snapshot_uri: str | None = Field(description="Without login and query.")
    code: str | None = Field(description="Why there is no `rtsp_url`: address_not_allowed, stream_not_found.")


class DiscoveredCamera(Output):
    address: str
    xaddr: str | None = Field(description="Its device service; null when it named none that is allowed.")
    name: str | None
    hardware: str | None
    onvif: bool = Field(description="false: it answers the search and does not say that it knows ONVIF, as printers do.")
    registered_as: str | None = Field(description="The camera that is registered with this address; of several the first.")
    clock_offset_s: float | None = Field(description="Its clock minus ours; null: not asked, or not told.")
    profiles: list[MediaProfile] | None = Field(description="null: not asked (no `address`).")


class DiscoverResponse(Output):
    items: list[DiscoveredCamera]
