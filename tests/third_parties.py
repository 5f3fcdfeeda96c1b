"""Nets of third parties as a user brings them: code that makes a net of PyTorch's layers and reads its checkpoint."""

from pathlib import Path

import torch
from torch import nn

from adaptive_smoothing_zoo.backbones.layers import Residual, Subsample
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed

NETS = Path(__file__).parents[1] / ".." / "shared" / "nets"
CIFAR_MEAN, IMAGENET_MEAN = (0.4914, 0.4822, 0.4465), (0.485, 0.456, 0.406)


def _read(net: nn.Module, file: str) -> nn.Module:
    """The net with a checkpoint's weights, which stand there in the order of the net's layers."""
    content = torch.load(NETS / file, map_location="cpu", weights_only=True)
    found = content.get("state_dict", content)
    own = [key for key in net.state_dict() if "num_batches" not in key]
    weights = [value for key, value in found.items() if "num_batches" not in key]
    net.load_state_dict(dict(zip(own, weights, strict=True)), strict=False)
    return net


def _basic_block(inner: int, outer: int, stride: int) -> nn.Module:
    main = nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(),
        nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outer),
    )
    shortcut = nn.Identity() if inner == outer else Subsample(stride, (outer - inner) // 2)
    return nn.Sequential(Residual(main, shortcut), nn.ReLU())


def resnet56() -> nn.Module:
    """He's ResNet-56 on CIFAR-10: 92.95 % of the first 2,000 test images."""
    widths = (16, 32, 64)
    blocks = [
        _basic_block(widths[max(0, stage - 1)] if i == 0 else width, width, 2 if i == 0 and stage else 1)
        for stage, width in enumerate(widths)
        for i in range(9)
    ]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    net = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return Preprocessed(_read(net, "resnet56-4bfd9763.th"), IMAGENET_MEAN, (0.229, 0.224, 0.225))


def resnet4b() -> nn.Module:
    """A small robust net on CIFAR-10 for l_inf 2/255: 77.20 % clean."""

    def block(inner: int, outer: int, stride: int) -> nn.Module:
        main = nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1), nn.ReLU(), nn.Conv2d(outer, outer, 3, 1, 1))
        shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inner, outer, 1, stride)
        return nn.Sequential(Residual(main, shortcut), nn.ReLU())

    blocks = [block(16, 32, 2), block(32, 32, 1), block(32, 32, 2), block(32, 32, 1)]
    head = [nn.Flatten(), nn.Linear(512, 100), nn.ReLU(), nn.Linear(100, 10)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), *blocks, *head)
    return Preprocessed(_read(net, "resnet4b.pth"), CIFAR_MEAN, (0.2470, 0.2435, 0.2616))


def _lenet(file: str) -> nn.Module:
    convolutions = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    convolutions += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3136, 200), nn.ReLU(), nn.Linear(200, 10))
    return _read(net, file)


def lenet() -> nn.Module:
    """A LeNet on MNIST: 98.89 % clean."""
    return _lenet("mnist_lenet5_clntrained.pt")


def robust_lenet() -> nn.Module:
    """A robust LeNet on MNIST for l_inf 0.3: 98.64 % clean."""
    return _lenet("mnist_lenet5_advtrained.pt")
