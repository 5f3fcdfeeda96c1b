"""Files that are whole, with strange content: checkpoints of other names and things, folders of odd images."""

from contextlib import suppress

import torch
from damage import damage
from fuzzing import attempt, attempt_call, cases
from PIL import Image
from strange import strange_object
from test_fuzz_files import plain_tensors

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ZooError
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, convert_mixing_network
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.triplet import meta_triplet

CONSTANTS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
ARCHITECTURES = {
    "small_cnn": {"widths": [2, 3]},
    "ra_wide_resnet": {"stem_width": 4, "depths": [1, 1, 1], "widths": [4, 8, 16], **CONSTANTS},
    "bit_resnet": {"depth": [1, 1, 1, 1], "width": 1, "image_size": 32},
    "dm_wide_resnet": {"depth": 10, "width": 1, "activation": "silu", **CONSTANTS},
}
KEYS = ["state_dict", "model", "bn", "module.x", "", 3, None, ("a",), "stem.weight", "logits.weight"]
KEYS += ["resnet/root_block/standardized_conv2d/kernel", "root.conv.weight", "layers.0.0.bn1.weight", "running_var"]
KEYS += ["head/conv2d/kernel"]


def test_checkpoints_with_strange_content():
    """What a file may well hold: other names, and other things than tensors."""
    nets = {name: build(name, num_classes=4, **given) for name, given in ARCHITECTURES.items()}
    mixing = meta_triplet(find_entry("Demo2026Adaptive", "digits", "Linf")).alpha
    for number, rng in cases("strange checkpoints", 1500):
        name, net = rng.choice(sorted(nets.items()))
        own = net.state_dict()
        state = dict(own) if rng.random() < 0.7 else {}
        for _ in range(rng.choice([1, 1, 3])):
            key = rng.choice([*own, *own, *KEYS])
            state[key] = strange_object(own.get(key, torch.zeros(2, 3)) if isinstance(key, str) else torch.ones(2), rng)
        if rng.random() < 0.3:
            nested = rng.choice(["state_dict", "model", "model_state_dict"])
            state = {nested: state, "bn": strange_object(torch.zeros(1), rng)}
        config = BaseNetConfig(architecture=name, arguments=ARCHITECTURES[name])
        converted, error = attempt(convert_base_net, state, config, net, "a file")
        assert error is None or isinstance(error, ZooError), (number, repr(error))
        if error is None:
            plain_tensors(converted, net=net)
        _, error = attempt(convert_mixing_network, state, mixing, "a file")
        assert error is None or isinstance(error, ZooError), (number, repr(error))


def save_image(path, rng, size=(32, 32)):
    """An image of one of PIL's modes; its file says the format, not its name."""
    usual = rng.random() < 0.99  # the range of the others is not known
    mode = rng.choice(["RGB", "RGB", "RGB", "L", "RGBA", "P", "1", "CMYK", "LA"] if usual else ["I", "F"])
    image = Image.effect_noise(size, 50).convert("RGB" if mode == "P" else mode)
    image = image.quantize(16) if mode == "P" else image
    image.save(path, format="TIFF" if mode in ("I", "F", "CMYK") else "PNG")


def disturb(root, victim, rng):
    """Damage one image of a folder, or put something beside it."""
    beside = victim.parent
    ways = [
        *[lambda: damage(victim, rng)] * 3,
        lambda: victim.unlink(),
        lambda: (beside / "notes.txt").write_text("no image"),
        lambda: (beside / "deeper").mkdir(),
        lambda: (root / "loose.png").write_bytes(b"no class"),
        lambda: (beside / "loop.png").symlink_to(beside / "loop.png"),
        lambda: (beside / "gone.png").symlink_to(beside / "nowhere"),
        lambda: (root / "empty").mkdir(),
        lambda: (root / "cifar-10-batches-py").write_text("a file"),
    ]
    rng.choice(ways)()


def test_image_folders(tmp_path):
    """A folder of images by class is read whole, in order, or refused."""
    read = 0
    for number, rng in cases("image folders", 150):
        root = tmp_path / str(number)
        name = rng.choice(["{}", "{}", "class {}", "größe {}"])
        for i in range(rng.choice([10, 10, 10, 10, 9, 11, 1])):
            folder = root / (name if rng.random() < 0.99 else "{} class").format(i)
            folder.mkdir(parents=True)
            for j in range(rng.choice([1, 1, 1, 2])):
                save_image(folder / f"{j}.png", rng, (32, 32) if rng.random() < 0.995 else (32, 31))
        files = sorted(root.rglob("*.png"))
        for victim in rng.sample(files, rng.choice([0, 0, 1, 1, 2]) if len(files) > 1 else 0):
            with suppress(FileExistsError):
                disturb(root, victim, rng)
        found, error = attempt_call(load_data, "cifar10", data_dir=root)
        if error is None:
            read += 1
            assert found.images.shape[1:] == (3, 32, 32), number
            here = [path for path in root.rglob("*.png") if path.is_file() and path.parent != root]
            assert len(found) == len(here), number
            assert (found.labels[1:] >= found.labels[:-1]).all(), number
    assert 20 < read < 140
