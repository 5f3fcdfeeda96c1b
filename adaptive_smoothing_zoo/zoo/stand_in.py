"""A stand-in for the module ``autoattack``, which RobustBench 1.1.1 imports, by pyautoattack 0.2.0, which it installs.

The attacks are pyautoattack's. Only the calling convention is translated, as far as ``robustbench.benchmark`` needs it.
An installed ``autoattack`` is used instead of this module.
"""

import logging
import types
from pathlib import Path
from typing import Any

import pyautoattack
import torch
from pyautoattack.state import EvaluationState
from torch import Tensor, nn

state = types.ModuleType("autoattack.state")
state.EvaluationState = EvaluationState  # type: ignore[attr-defined]


class AutoAttack:
    """``autoattack.AutoAttack`` as ``robustbench.benchmark`` calls it.

    Args:
        model: images in [0, 1] to logits.
        norm, eps, seed, version, device: pyautoattack's.
        attacks_to_run: names of attacks; only with ``version="custom"``.
        log_path: a file to which pyautoattack's log is also written.
        verbose: whether that log has more than warnings.
    """

    def __init__(
        self,
        model: nn.Module,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: list[str] | None = None,
        version: str = "standard",
        device: str | torch.device = "cuda",
        log_path: str | Path | None = None,
    ) -> None:
        attacks = attacks_to_run or None
        self._attack: Any = pyautoattack.AutoAttack(
            model, attacks=attacks, norm=norm, eps=eps, seed=seed, version=version, device=device
        )
        self._attack.verbose = verbose
        if log_path is not None:
            handler = logging.FileHandler(log_path)
            handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
            self._attack.logger.addHandler(handler)
            self._attack.logger.setLevel(logging.DEBUG)

    def __getattr__(self, name: str) -> Any:
        if name == "_attack":  # not set yet
            raise AttributeError(name)
        return getattr(self._attack, name)

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial examples (N, channels, H, W), and their labels if asked for.

        Raises:
            ValueError: ``state_path`` is given; in these versions neither AutoAttack nor RobustBench can resume.
        """
        if state_path is not None:
            raise ValueError(
                "AutoAttack's state files cannot be loaded again, and robustbench.benchmark fails on them after the "
                "whole run; omit aa_state_path"
            )
        # pyautoattack needs contiguous tensors, which a model in channels_last does not give by itself.
        x_adv, y_adv = self._attack.run_standard_evaluation(x_orig.contiguous(), y_orig, batch_size=bs)
        return (x_adv, y_adv) if return_labels else x_adv


__all__ = ["AutoAttack", "state"]
