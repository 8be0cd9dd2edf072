"""The machine: what stands beside every number, and whether its memory suffices."""

import gc
import math
import os
import platform
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from stages.lib.core import cgroups
from stages.lib.core.errors import UserError

PACKAGES = ("dvc", "mlxtend", "numpy", "scikit-learn", "torch", "torchvision")
#: How PyTorch says that memory did not suffice; last cuDNN, where no kernel's workspace fits.
LACKING = re.compile(
    "out of memory|can't allocate memory|not enough memory|ALLOC_FAILED|unable to find an engine"
)


def cores() -> int:
    """Return the number of CPU cores that this process may use: its affinity or its quota."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(math.ceil(quota) for quota in cgroups.cpu_quotas())]))


def available_memory() -> int | None:
    """Return the bytes that are free on the host and in its cgroups, None if it doesn't tell."""
    return min([*_free_on_host(), *cgroups.free_memory()], default=None)


def _free_on_host() -> list[int]:
    return [1024 * int(kilobytes) for kilobytes in _fact("meminfo", "MemAvailable").split()[:1]]


def _fact(file: str, name: str) -> str:
    """Return the first value of a name that ``/proc`` tells, empty where the system doesn't."""
    with suppress(OSError):
        for line in Path("/proc", file).read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def require_memory(needed: int, what: str) -> None:
    """Require about so many bytes of memory, before ``what`` needs them.

    Raises:
        UserError: there is less.
    """
    if (available := available_memory()) is not None and needed > available:
        raise UserError(
            f"{what}: needs about {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB "
            "are available; ask for less, or free some"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory, the host's or an accelerator's, did not suffice."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, RuntimeError) and LACKING.search(str(error)):
        return True
    # A graph's capture fails by an error of its own.
    return error.__context__ is not None and is_out_of_memory(error.__context__)


def free_gpu_memory() -> int:
    """Return the bytes that are free on the CUDA device."""
    import torch

    return int(torch.cuda.mem_get_info()[0])


def require_gpu_memory(needed: int, what: str) -> None:
    """Require so many bytes of memory of the CUDA device, before ``what`` is copied there.

    Raises:
        UserError: there is less.
    """
    if needed > free_gpu_memory():
        forget_free_memory("cuda")
    if needed > (free := free_gpu_memory()):
        raise UserError(
            f"{what}: {needed / 2**30:.1f} GiB do not fit in the {free / 2**30:.1f} GiB that are "
            "free on the GPU; ask for a smaller data.size, or train on the CPU"
        )


def forget_free_memory(device: str) -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def hardware(device: str) -> dict[str, str | int]:
    """Return processor, cores, system and, where training ran on it, the accelerator."""
    facts: dict[str, str | int] = {
        "cores": cores(),
        "device": device,
        "kernels": kernels(),
        "processor": _fact("cpuinfo", "model name") or platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if name := accelerator(device):
        facts["accelerator"] = name
    return facts


def accelerator(device: str) -> str:
    """Return the name of the CUDA device; empty for other devices."""
    if device != "cuda":
        return ""
    import torch

    return torch.cuda.get_device_name()


def kernels() -> str:
    """Return the widest vectors of this CPU, by which libraries choose how to sum and round."""
    flags = _fact("cpuinfo", "flags").split()
    return next((name for name in ("avx512f", "avx2", "sse4_2") if name in flags), "other")


def versions() -> dict[str, str]:
    """Return Python's version and those of the packages that results can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
