"""Whether the kernels of `stacked` compute on a device what PyTorch's operations do."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.kernels import stacked

VARIABLE = "TRITON_KERNELS"
#: that `usable` looks at: type and precision, stride, and an error far beyond rounding
CASES = (
    (torch.float32, "ieee", 2, 1e-5), (torch.float32, "tf32", 1, 1e-2),
    (torch.bfloat16, "ieee", 1, 3e-2),
)  # fmt: skip


def _check_adadelta(device: torch.device) -> None:
    generator, rates = torch.Generator().manual_seed(0), torch.tensor([1.0, 0.1, 2.0])
    p, g, s, u = (torch.rand(3, 50, generator=generator) for _ in range(4))
    got = [t.to(device, copy=True) for t in (p, s, u)]
    gradients = [part.to(device) for part in g.split([7, 43], dim=1)]
    stacked.adadelta_step(got[0], gradients, got[1], got[2], rates.to(device), 0.9, 1e-6, 0.1)
    g = g + 0.1 * p
    s = 0.9 * s + 0.1 * g * g
    update = g * ((u + 1e-6) / (s + 1e-6)).sqrt()
    _compare(got, [p - rates[:, None] * update, s, 0.9 * u + 0.1 * update * update], 1e-5)


def _check_convolution(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.autocast(device.type, enabled=False)
    for dtype, precision, stride, tolerance in CASES:
        sizes = ((2, 6, 7, 8), (2, 5, 3, 3, 3), (2, 5), (2, 10, -(-7 // stride), -(-8 // stride)))
        with plain, torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            inputs = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
            x, weight, bias, gradient = (t.to(device).requires_grad_() for t in inputs)
            y = stacked.batched_conv2d(x, weight, bias, stride, precision)
            got = [y, *torch.autograd.grad(y, (x, weight, bias), gradient)]
            x, weight, bias, gradient = (t.double().requires_grad_() for t in inputs)
            y = functional.conv2d(x, weight.flatten(0, 1), bias.flatten(), stride, 1, groups=2)
            wanted = [y, *torch.autograd.grad(y, (x, weight, bias), gradient)]
        _compare(got, wanted, tolerance)


def _compare(got: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float) -> None:
    for mine, right in zip(got, wanted, strict=True):
        error = float((mine.cpu() - right).detach().abs().max() / right.detach().abs().max())
        if not error <= tolerance:  # also where it is no number
            raise ArithmeticError(f"wrong by {error:.1e} of the largest number")


CHECKS = {"adadelta": _check_adadelta, "convolution": _check_convolution}


@cache
def usable(device: torch.device, kernel: str) -> bool:
    """Tell whether a kernel computes what PyTorch does on a device; if it fails, say so on stderr.

    Random numbers of others are left alone. The first call must not be while a graph is captured.
    ``TRITON_KERNELS=off`` switches all off, for a device on which one ends the whole process.

    Args:
        device: never usable but for CUDA.
        kernel: ``adadelta`` or ``convolution``.
    """
    check = CHECKS[kernel]
    if device.type != "cuda" or os.environ.get(VARIABLE) == "off":
        return False
    try:
        check(device)
    except Exception as error:  # whatever a compiler or driver comes up with
        message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(f"warning: PyTorch's own {kernel} instead of Triton's: {message}", file=sys.stderr)
        return False
    return True


def fused(device: torch.device, optimizer: str) -> Callable[..., None] | None:
    """Return what does an optimizer's step in one pass on a device, None where nothing can."""
    kernel = {"adadelta": stacked.adadelta_step}.get(optimizer)
    return kernel if kernel is not None and usable(device, optimizer) else None
