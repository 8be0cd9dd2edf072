"""What a result was computed on: hardware and versions, to stand beside every number."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("dvc", "mlxtend", "numpy", "scikit-learn", "torch", "torchvision")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware(device: str) -> dict[str, str | int]:
    """Return processor, cores, system and, where training ran on it, the accelerator."""
    facts: dict[str, str | int] = {
        "cores": cores(),
        "device": device,
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device == "cuda":
        import torch

        facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that results can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
