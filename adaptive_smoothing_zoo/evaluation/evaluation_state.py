"""The state of an evaluation on disk: chunks of finished points, and a snapshot of the running attack."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, shown
from adaptive_smoothing_zoo.evaluation.ledger import TENSORS, Chunk
from adaptive_smoothing_zoo.storage.bound_state import read_binding, read_entries
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import parse, to_json
from adaptive_smoothing_zoo.threat import ThreatModel

CHUNK = "chunk"  # a file of finished points; ``running-<attack>`` is the snapshot of a running attack


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The evaluation that a state belongs to: everything that determines verdicts.

    Attributes:
        protocol: "AutoAttack standard", or the differences from it.
        model: identity of the model.
        examples: number of examples.
        data_sha256: of images and labels.
        threat, settings: of the attacks; the batch size only where verdicts depend on it (the reference engine).
        engine: with its version.
        device: its type.
        shard: "i/k".
        surrogate: identity of the surrogate, if there is one.
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


def binding_of(folder: Path) -> Binding:
    """The binding of the state in a folder.

    Raises:
        ResultsError: the folder holds no state of an evaluation, or a damaged one.
    """
    try:
        return parse(Binding, read_binding(folder), str(folder))
    except ConfigError as error:
        raise ResultsError(f"{folder} holds no state of an evaluation ({error}); delete it to start again") from error


def read_chunks(folder: Path) -> list[Chunk]:
    """The chunks of a state that no process uses.

    Raises:
        ResultsError: one cannot be read.
    """
    return read_entries(folder, CHUNK, chunk_of)


def chunk_entry(chunk: Chunk) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A chunk as a file of the state: its tensors and its values."""
    values = {field.name: to_json(getattr(chunk, field.name)) for field in fields(Chunk) if field.name not in TENSORS}
    return {name: getattr(chunk, name) for name in TENSORS}, values


def chunk_of(tensors: dict[str, Any], values: Any) -> Chunk:
    """The inverse."""
    values["warnings"], values["remarks"] = tuple(values["warnings"]), tuple(values["remarks"])
    return Chunk(**tensors, **values)


def snapshot_of(tensors: dict[str, Tensor], values: Any) -> tuple[dict[str, Tensor], float]:
    """The engine's snapshot of an attack, and the seconds since the last chunk."""
    seconds = values["seconds"]
    if type(seconds) not in (int, float) or not 0.0 <= seconds < float("inf"):
        raise ValueError(f"{shown(seconds)} seconds")
    return tensors, seconds
