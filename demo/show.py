"""What one address of a demo camera presents, and what goes wrong with it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

Sets = Literal["both", "sdp", "band"]


@dataclass(frozen=True, slots=True)
class Faults:
    """What the camera leaves out of what it sends. Pictures are named by the numbers of the film's pictures.

    `cut_units`, `cut_every`: of these pictures the packets of the second half are missing, with the marker bit; a
    picture of one packet is missing as a whole. "Every n-th" counts picture numbers and spares key pictures.
    """

    loss: float = 0.0  # the share of RTP packets not sent, 0 to 1; sequence numbers show it
    seed: int = 1  # which ones: the same for the same seed and sequence numbers
    drop_units: Sequence[int] = ()  # pictures taken out
    drop_every: int = 0
    cut_units: Sequence[int] = ()
    cut_every: int = 0
    hidden: bool = False  # sequence numbers have no gap for what is taken out: lost before the packets were made

    def drops(self, number: int, key: bool) -> bool:
        """Whether this picture is taken out whole."""
        return number in self.drop_units or _nth(number, self.drop_every, key)

    def cuts(self, number: int, key: bool) -> bool:
        """Whether this picture loses its second half."""
        return number in self.cut_units or _nth(number, self.cut_every, key)

    def loses(self, track: int, sequence: int) -> bool:
        """Whether the RTP packet with this sequence number gets lost."""
        if not self.loss:
            return False
        dice = hashlib.blake2b(f"{self.seed}.{track}.{sequence}".encode(), digest_size=4).digest()
        return int.from_bytes(dice, "big") < self.loss * 2**32


def _nth(number: int, every: int, key: bool) -> bool:
    return bool(every) and not key and number % every == every - 1


@dataclass(frozen=True, slots=True)
class Show:
    """The tracks of one address in the order of its SDP: films with pictures or with sound.

    A track that is a sequence of films shows one after the other (with another size, say), then again from the first.
    `sets`: where parameter sets are told. `packet_bytes`: the largest RTP payload. `codec`: a name that the SDP gives
    to the first film's pictures instead of the true one.
    """

    tracks: Sequence[Path | Sequence[Path]]
    sets: Sets = "both"
    packet_bytes: int = 1400
    codec: str = ""
    faults: Faults = field(default_factory=Faults)

    @property
    def films(self) -> list[list[Path]]:
        """Each track's films."""
        return [[track] if isinstance(track, Path) else list(track) for track in self.tracks]

    def to_json(self) -> str:
        """For the command line."""
        tracks = [[str(path.resolve()) for path in films] for films in self.films]
        return json.dumps({**asdict(self), "tracks": tracks})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The opposite of `to_json`."""
        fields = json.loads(text)
        tracks = [[Path(name) for name in films] for films in fields.pop("tracks")]
        return cls(tracks, **{**fields, "faults": Faults(**fields["faults"])})
