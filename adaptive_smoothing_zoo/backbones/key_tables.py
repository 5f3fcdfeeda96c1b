"""Renames the keys of other projects' checkpoints to ours. Each table is in the file of the net that it serves."""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from adaptive_smoothing_zoo.errors import WeightsError

# Regex of a whole foreign key -> our key: a template for re.Match.expand, or a function of the match.
KeyTable = Mapping[str, str | Callable[[re.Match[str]], str]]

_PREFIXES = re.compile(r"^(?:module\.(?:0\.)?|_orig_mod\.|model\.|backbone\.)+")


def rename(state: Mapping[str, Tensor], table: KeyTable, what: str) -> dict[str, Tensor]:
    """The same tensors under our keys.

    Wrappers' prefixes (``module.``, ``module.0.``, ``_orig_mod.``, ``model.``, ``backbone.``, in any combination) are
    removed. A batch norm without ``num_batches_tracked``, as in old checkpoints, gets 0, as in PyTorch.

    Args:
        state: foreign keys and tensors.
        table: every key that such a checkpoint may have.
        what: the net or format, for the message.

    Raises:
        WeightsError: a key that is not in the table, or two keys of one tensor; the message names it.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        ours = _look_up(_PREFIXES.sub("", key), table)
        if ours is None:
            unknown.append(key)
        elif ours in renamed:
            raise WeightsError(f"the checkpoint has {ours!r} of {what} twice; the second time as {key!r}")
        else:
            renamed[ours] = value
    if unknown:
        listed = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise WeightsError(f"the checkpoint is not one of {what}; {len(unknown)} unknown: {listed}")
    for key in [key for key in renamed if key.endswith("running_var")]:
        renamed.setdefault(key.removesuffix("running_var") + "num_batches_tracked", torch.tensor(0))
    return renamed


def normalization(mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """The constants of a ``BaseNet`` as its state dict holds them; most checkpoints have none."""
    return {"mean": torch.tensor(mean).view(-1, 1, 1), "std": torch.tensor(std).view(-1, 1, 1)}


def _look_up(key: str, table: KeyTable) -> str | None:
    for pattern, ours in table.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(ours) if isinstance(ours, str) else ours(match)
    return None
