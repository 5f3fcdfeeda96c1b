"""Where a number comes from: hashes of data, device, installed versions, commit."""

from __future__ import annotations

import platform
import subprocess
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import torch


def tensors_sha256(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and bytes of tensors, in the order of their names."""
    digest = sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def device_name(device: str) -> str:
    """The accelerator's name, or the processor and its threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, threads: {torch.get_num_threads()}"


def installed_versions() -> dict[str, str]:
    """Versions of what decides a result, as far as installed."""
    names = ("adaptive-smoothing-zoo", "torch", "torchvision", "numpy", "pyautoattack", "robustbench", "timm")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def source_commit() -> str | None:
    """The commit of the checkout that this file stands in, marked if the package differs from it; None elsewhere."""
    package = Path(__file__).parent.parent
    try:
        run = [
            subprocess.run(["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10)
            for arguments in (
                ["ls-files", "--error-unmatch", "__init__.py"],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--", "."],
            )
        ]
    except (OSError, subprocess.TimeoutExpired):
        return None
    if any(process.returncode for process in run):
        return None
    return run[1].stdout.strip() + (" with local changes" if run[2].stdout.strip() else "")
