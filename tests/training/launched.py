"""What each of several processes does in test_workers.py: train, and write what it ended with.

Arguments: a folder for checkpoints, a folder for results, the round after which to stop (0 for none).
"""

import sys
from pathlib import Path

import torch
from quadrants import IMAGES, LABELS, a_mix, a_net
from safetensors.torch import save_file

from adaptive_smoothing_zoo.attacks.randomized import Randomization
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.mixing_training import MixingTraining, TrainingAttack, train_mixing_network
from adaptive_smoothing_zoo.training.workers import find_workers

ATTACK = TrainingAttack(setting="B", eps=0.2, randomization=Randomization(steps=5))
TRADES = {"eps": 0.05, "attack_steps": 2, "attack_step_size": 0.03, "attack_mode": "eval", "trades_beta": 6.0}


def mixing(**changes):
    return MixingTraining(**({"epochs": 1, "batch_size": 16, "attack": ATTACK, "padding": 1} | changes))


def base(**changes):
    return BaseNetTraining(**({"epochs": 1, "batch_size": 16, **TRADES} | changes))


def main():
    state, results, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    workers = find_workers(torch.device("cpu"))
    assert workers.size == 2

    def maybe_stop(progress):
        if progress.round == stop:
            sys.exit(1)

    options = {"workers": workers, "checkpoint_seconds": 0.0, "on_progress": maybe_stop}
    model = train_mixing_network(a_mix(), IMAGES, LABELS, mixing(), folder=state / "mixing", **options)
    net = train_base_net(a_net(), IMAGES, LABELS, base(), folder=state / "base", **options)
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"net.{k}": v for k, v in net.state_dict().items()}
    results.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, results / f"{workers.rank}.safetensors")
    workers.wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
