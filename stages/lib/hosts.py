"""What a result was computed on: hardware and versions, to stand beside every number."""

import multiprocessing
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("dvc", "mlxtend", "numpy", "scikit-learn", "torch", "torchvision")


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare_processes() -> None:
    """Set what processes started from now on need to know before they load their libraries.

    Where a variable is set already, it stays.
    """
    # glibc returns a layer's output to the system and asks for zeroed pages at the next step: let
    # it keep blocks of up to 32 MiB, the largest it takes (docs/PERFORMANCE.md has the gain).
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 << 20))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2 << 30))
    # MKL rounds a product by where its matrices lie in memory, and with it by a stack's company.
    os.environ.setdefault("MKL_CBWR", "AUTO")


def process_context(module: str) -> Any:
    """Return how to start processes that import a module, once for all where that is possible."""
    prepare_processes()
    # A fork of a process that has loaded Apple's frameworks may crash: spawn there.
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def free_gpu_memory() -> int:
    """Return the bytes that are free on the CUDA device."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    return int(free)


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
