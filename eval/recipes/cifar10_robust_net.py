"""Train the small robust net of the CIFAR-10 demo: a half-width ResNet-18 by FGSM-RS at l_inf 8/255.

    python eval/recipes/cifar10_robust_net.py --data cifar10_train.npz --out runs/cifar10_robust_net

About 25 minutes on 2 cores with bfloat16 matrix units. Writes ``rob_model.safetensors`` (half precision) and
``training.json``. ``--data`` takes whatever ``load_data`` takes.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

import click
import torch
from safetensors.torch import save_file

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.keeping import read_log

ARCHITECTURE = {
    "architecture": "resnet18",
    "width": 32,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
}
SETTINGS = BaseNetTraining(
    epochs=8,
    learning_rate=0.2,
    eps=8 / 255,
    attack_steps=1,
    attack_step_size=10 / 255,
    padding=4,
    flip=True,
    bfloat16=True,
)


@click.command()
@click.option("--data", default=None, help="where the training images are; downloaded through torchvision if absent")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/cifar10_robust_net"))
def main(data: str | None, out: Path) -> None:
    examples = load_data("cifar10", "train", data_dir=data)
    torch.manual_seed(SETTINGS.seed)
    net = build(**ARCHITECTURE)
    start = time.time()
    train_base_net(net, examples.images, examples.labels, SETTINGS, folder=out)
    weights = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, out / "rob_model.safetensors")
    record = {
        "architecture": ARCHITECTURE,
        "settings": asdict(SETTINGS),
        "data": examples.source,
        "torch": torch.__version__,
        "losses": [row["loss"] for row in read_log(out)],
        "seconds": round(time.time() - start),
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
