"""What somebody, or a file, may give in place of what is wanted: numbers, texts, devices, tensors, nets."""

import math
from contextlib import suppress

import numpy as np
import torch
from torch import nn

NAN, INF = float("nan"), float("inf")
HUGE = (2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, INF, NAN, -1, 0, -0.5, 1 << 40)
NUMBERS = (*HUGE, 0.3, 1.0, 1e-9, -1e-9, 2, 3, -INF, 1e38, np.float32(0.5), np.int64(2), True)
SEEDS = (np.int64(-5), np.int64(-(2**63)), np.uint64(2**64 - 1), np.uint8(3), np.float64(3.0), -5)
TEXTS = ("", "\x00", "../../etc", "ä" * 300, "9" * 5000, "1e999999999", "1/0", "nan", "-1", "<b>", "|", "one\ntwo")
TEXTS = (*TEXTS, "\ud800")
DEVICES = ("cpu", "auto", "cuda", "cuda:7", "meta", "cpu:3", "", "tpu", "mps", "cuda:-1", 0, -1, 1.5, b"cpu", None)


def _resized(tensor, rng):
    """One dimension of another size."""
    shape = list(tensor.shape) or [1]
    k = rng.randrange(len(shape))
    shape[k] = rng.choice([0, 1, shape[k] + 1, 3 * shape[k], 65])
    return tensor.new_full(shape, 0.5)


def _with_values(tensor, rng):
    """Some values that are not finite, or out of range."""
    if not tensor.is_floating_point():
        return tensor + rng.choice([100, -100, 1])
    changed = tensor.clone()
    values = [NAN, INF, -INF, -0.5, 1.5, 3e38, 1e-45, -0.0, 1.0 + 1e-6, 255.0]
    for _ in range(rng.choice([1, 1, 50]) if changed.numel() else 0):
        changed.view(-1)[rng.randrange(changed.numel())] = rng.choice(values)
    return changed


VALUES = [_with_values]
ROWS = [
    lambda t, rng: t.flatten(),
    lambda t, rng: t.flatten()[:3],
    lambda t, rng: t.unsqueeze(0),
    lambda t, rng: t.squeeze(),
    lambda t, rng: t[0],
    lambda t, rng: t[:0],
    lambda t, rng: t[:-1],
    lambda t, rng: torch.cat([t, t]),
    lambda t, rng: t.sum(),
    lambda t, rng: t.permute(0, *range(2, t.ndim), 1),
]
SHAPES = [*ROWS, *[_resized] * 6]
LAYOUTS = [
    lambda t, rng: t.transpose(-1, -2),
    lambda t, rng: t.flip(0),
    lambda t, rng: t.repeat_interleave(2, dim=-1)[..., ::2],
    lambda t, rng: t[:1].expand(3, *t.shape[1:]),
    lambda t, rng: t.to(memory_format=torch.channels_last),
    lambda t, rng: torch.cat([t.flatten(), t.flatten()])[t.numel() :].view(t.shape),
    lambda t, rng: t.detach().requires_grad_(),
    lambda t, rng: t.detach().requires_grad_() * 1.0,
    lambda t, rng: t.to("meta"),
    lambda t, rng: t.to_sparse(),
    lambda t, rng: nn.Parameter(t.detach()),
    lambda t, rng: torch.complex(t, t).real,
    lambda t, rng: torch.empty(0),
]
DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64),
    *(torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool),
]
DTYPES = [lambda t, rng, dtype=dtype: t.to(dtype) for dtype in DTYPES]
OBJECTS = [
    lambda t, rng: None,
    lambda t, rng: t.tolist(),
    lambda t, rng: t.numpy(),
    lambda t, rng: 3,
    lambda t, rng: "text",
    lambda t, rng: {},
    lambda t, rng: {"a": t},
    lambda t, rng: (t,),
    lambda t, rng: [t],
    lambda t, rng: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    lambda t, rng: np.array(["a"]),
    lambda t, rng: np.array([t, None], dtype=object),
    lambda t, rng: np.ma.masked_array([1.0]),
]
ARRAYS = [  # what only NumPy has
    lambda a: a.astype(np.uint64) + np.uint64(2**63),
    lambda a: a.astype("U8"),
    lambda a: a.astype("datetime64[s]") if a.dtype != np.uint8 else a.astype(bool),
    lambda a: a.astype(">i8"),
    lambda a: a.astype([("a", a.dtype)]),
    lambda a: np.asfortranarray(a),
]


def changed(value, rng, *kinds):
    """The tensor changed in a way of each of these kinds, where PyTorch has such a tensor."""
    for kind in kinds:
        with suppress(RuntimeError, NotImplementedError, IndexError, TypeError):
            value = rng.choice(kind)(value, rng)
    return value


def strange_tensor(tensor, rng, shapes=SHAPES):
    """The tensor changed in one way, dense and with values, as files and NumPy can hold it."""
    found = changed(tensor, rng, rng.choice([VALUES, shapes, shapes, DTYPES]))
    foreign = found.dtype in (torch.complex64, torch.bfloat16, torch.float8_e4m3fn)
    return (tensor[:0] if foreign else found).contiguous()


def strange_object(tensor, rng):
    """What else may be found where that tensor should be."""
    return changed(tensor, rng, rng.choice([SHAPES, LAYOUTS, DTYPES, OBJECTS, OBJECTS]))


def strange_array(array, rng):
    return rng.choice(ARRAYS)(array) if rng.random() < 0.4 else strange_tensor(torch.from_numpy(array), rng).numpy()


def strange_images(rng, shape):
    """Images of a shape and a batch size from 0 to 3, changed in one way or several, or not at all."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    images = torch.rand((rng.choice([0, 1, 1, 2, 3]), *shape), generator=generator)
    return changed(images, rng, *rng.sample([VALUES, SHAPES, LAYOUTS, DTYPES], rng.choice([0, 1, 1, 2, 4])))


def strange_labels(rng, n, classes, outside):
    """Labels of n images; half of them are good, the others not, or ``outside`` higher or lower."""
    good = torch.tensor([rng.randrange(classes) for _ in range(n)], dtype=torch.int64)
    if rng.random() < 0.5:
        return good
    kind = rng.choice([SHAPES, LAYOUTS, DTYPES, OBJECTS, VALUES])
    return good + rng.choice([outside, -outside]) if kind is VALUES else changed(good, rng, kind)


def strange_values(rng, low, high):
    """A number, an array, a list or a tensor of values, most of them in [low, high]."""
    shape = rng.choice([(), (1,), (3,), (2, 3), (0,), (4,)])
    array = np.array([rng.uniform(low, high) for _ in range(math.prod(shape))], dtype=float).reshape(shape)
    if rng.random() < 0.3:
        array = np.round(array)
    if rng.random() < 0.3 and array.size:
        odd = rng.choice([NAN, INF, -INF, -1, low, high, 1 + high, 1e308, 5e-324])
        array.flat[rng.randrange(array.size)] = float(odd)
    ways = {
        lambda: array: 4,
        lambda: array.tolist(): 2,
        lambda: torch.tensor(array): 2,
        lambda: torch.tensor(array, dtype=torch.float32): 2,
        lambda: array.astype(np.float32): 2,
        lambda: float(array.flat[0]) if array.size else 0.5: 4,
        lambda: array[..., None].repeat(2, axis=-1)[..., 0]: 1,
        lambda: array.astype(complex): 0.2,
        lambda: array.astype(str): 0.2,
        lambda: array.astype(object): 0.2,
        lambda: None: 0.1,
        lambda: "0.5": 0.1,
    }
    return rng.choices(list(ways), list(ways.values()))[0]()


class Answers(nn.Module):
    """A net whose answers are changed on the way out."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, images):
        return self.change(self.net(images))


ANSWERS = {
    "as they are": lambda logits: logits,
    "one row": lambda logits: logits[:1],
    "no rows": lambda logits: logits[:0],
    "twice the rows": lambda logits: torch.cat([logits, logits]),
    "three dimensions": lambda logits: logits[None],
    "one dimension": lambda logits: logits.flatten(),
    "one class": lambda logits: logits[:, :1],
    "three classes": lambda logits: logits[:, :3],
    "no classes": lambda logits: logits[:, :0],
    "a tuple": lambda logits: (logits, logits),
    "nothing": lambda logits: None,
    "an array": lambda logits: logits.detach().numpy(),
    "labels": lambda logits: logits.argmax(dim=1),
    "NaN": lambda logits: logits * NAN,
    "infinity": lambda logits: logits + INF,
    "some NaN": lambda logits: torch.where(logits > logits.mean(), NAN, logits),
    "halves": lambda logits: logits.half(),
    "doubles": lambda logits: logits.double(),
    "complex numbers": lambda logits: torch.complex(logits, logits),
    "whole numbers": lambda logits: (10 * logits).long(),
    "truth values": lambda logits: logits > 0,
    "no gradient": lambda logits: logits.detach(),
    "constant": lambda logits: torch.zeros_like(logits),
    "huge": lambda logits: logits * 1e30,
    "on no device": lambda logits: logits.to("meta"),
    "sparse": lambda logits: logits.to_sparse(),
}
