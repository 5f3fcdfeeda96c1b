"""The state of an evaluation on disk: chunks of finished points, and where the attack under way stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, shown
from adaptive_smoothing_zoo.evaluation.ledger import TENSORS, Chunk
from adaptive_smoothing_zoo.storage.bound_state import BoundState, read_binding, read_entries
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import parse, to_json
from adaptive_smoothing_zoo.threat import ThreatModel

CHUNK = "chunk"  # the kind of a state's files


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What a state belongs to. Whatever decides a verdict is in here.

    Attributes:
        protocol: "AutoAttack standard", or what differs from that.
        model: who the model is.
        examples: how many there are.
        data_sha256: of images and labels.
        threat, settings: of the attacks; the batch size only where verdicts depend on it (the reference engine).
        engine: with its version.
        device: its type.
        shard: "i/k".
        surrogate: who it is, if one is attacked through.
        robust_sha256: of the verdicts that adaptive attacks start from.
    """

    protocol: str
    model: Identity
    examples: int
    data_sha256: str
    threat: ThreatModel
    settings: AttackSettings
    engine: str
    device: str
    shard: str = "0/1"
    surrogate: Identity | None = None
    robust_sha256: str | None = None

    def __post_init__(self) -> None:
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", self.shard)
        if match is None or int(match[1]) >= int(match[2]):
            raise ValueError(f"a shard is i/k with 0 <= i < k, got {shown(self.shard)}")


class RunState:
    """A folder of chunks and snapshots.

    Args:
        folder: made if it does not exist.
        binding: of the evaluation that wants to resume.

    Raises:
        ResultsError: the folder belongs to something else, or cannot be read or written.
    """

    def __init__(self, folder: Path, binding: Binding) -> None:
        self._kept = BoundState(folder, binding)
        self.locked = self._kept.locked

    def chunks(self) -> list[Chunk]:
        """What is known. A file that cannot be read is put aside, and its points are attacked again."""
        return self._kept.entries(CHUNK, _chunk)

    def add(self, chunk: Chunk) -> None:
        """Write one chunk.

        Raises:
            ResultsError: it cannot be written; what was written before is safe.
        """
        about = {name: to_json(getattr(chunk, name)) for name in _VALUES}
        self._kept.append(CHUNK, {name: getattr(chunk, name) for name in TENSORS}, about)

    def write_snapshot(self, attack: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """Replace what is known of where an attack stands.

        Args:
            attack: that is under way. Points with which it is done must have been added before.
            tensors: as its engine gives them.
            seconds: wall time since the last chunk.

        Raises:
            ResultsError: it cannot be written; what was written before is safe.
        """
        self._kept.replace(f"running-{attack}", tensors, {"seconds": seconds})

    def read_snapshot(self, attack: str) -> tuple[dict[str, Tensor], float] | None:
        """Where an attack stands, and the seconds since the last chunk; None if nothing is known."""
        return self._kept.read(f"running-{attack}", _snapshot)

    def drop_snapshot(self, attack: str, error: Exception | None = None) -> None:
        """Forget where an attack stands, since it is over; or put that aside, because of an error."""
        self._kept.drop(f"running-{attack}", error)


def binding_of(folder: Path) -> Binding:
    """What the state in a folder belongs to.

    Raises:
        ResultsError: the folder holds no state of an evaluation, or a damaged one.
    """
    try:
        return parse(Binding, read_binding(folder), str(folder))
    except ConfigError as error:
        raise ResultsError(f"{folder} holds no state of an evaluation ({error}); delete it to begin again") from error


def read_chunks(folder: Path) -> list[Chunk]:
    """The chunks of a state that nobody works on.

    Raises:
        ResultsError: one cannot be read.
    """
    return read_entries(folder, CHUNK, _chunk)


_VALUES = tuple(field.name for field in fields(Chunk) if field.name not in TENSORS)


def _chunk(tensors: dict[str, Any], values: Any) -> Chunk:
    values["warnings"], values["remarks"] = tuple(values["warnings"]), tuple(values["remarks"])
    return Chunk(**tensors, **values)


def _snapshot(tensors: dict[str, Tensor], values: Any) -> tuple[dict[str, Tensor], float]:
    seconds = values["seconds"]
    if type(seconds) not in (int, float) or not 0.0 <= seconds < float("inf"):
        raise ValueError(f"{shown(seconds)} seconds")
    return tensors, seconds
