"""Triton kernels for stacks on CUDA: AdaDelta in one pass, and all members' convolutions at once.

PyTorch's own operations do the same: who calls asks `checks.usable` first. Triton is imported when
the first kernel is wanted, so that nobody else pays for it or needs it.

A stack's maps are ``(b, K * channels, height, width)``, channels last: in memory the K members'
channels of a pixel lie side by side. A convolution is the product of patches and weights, whose
patches are put together as they are read, never stored ("implicit GEMM", Chetlur et al. 2014).
"""

from __future__ import annotations  # Kernels' name what Triton has before it is imported.

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1024  # weights that a program of AdaDelta updates
PROGRAMS = 1056  # eight for each of an H100's 132 processors: fewer would leave some of them idle
tl: Any = None  # triton.language from the first kernel on; kernels look it up here


@cache
def _jit(kernel: Callable[..., None], special: int) -> Any:
    """Return a kernel for Triton to compile, anew for other alignments of its first arguments.

    All others are numbers whose values change too often, or constants.
    """
    global tl
    import triton
    import triton.language

    tl = triton.language
    names = list(inspect.signature(kernel).parameters)[special:]
    numbers = [name for name in names if name not in kernel.__annotations__]
    return triton.jit(kernel, do_not_specialize=numbers)


def adadelta_step(
    parameters: Tensor, gradients: Sequence[Tensor], squares: Tensor, updates: Tensor,
    rates: Tensor, rho: float, epsilon: float, weight_decay: float,
) -> None:  # fmt: skip
    """Do a step of AdaDelta (`components.optimizers`) in place, each number read and written once.

    Args:
        parameters: ``(K, P)`` float32, as are all tensors here.
        gradients: ``(K, ...)`` each, in the parameters' order, of P numbers for each member.
        squares: ``(K, P)`` running averages of squared gradients.
        updates: ``(K, P)`` running averages of squared updates.
        rates: ``(K,)`` or ``(K, 1)`` learning rates.
        rho: decay of the running averages.
        epsilon: added under the roots.
        weight_decay: so much of every parameter is added to its gradient.

    Raises:
        ValueError: tensors of other types or sizes, or matrices that do not lie in one piece.
    """
    matrices, members = (parameters, squares, updates), len(parameters)
    if not all(m.is_contiguous() and m.shape == parameters.shape for m in matrices):
        raise ValueError("parameters, squares and updates must be contiguous and of one shape")
    if any(t.dtype != torch.float32 for t in (*matrices, rates, *gradients)):
        raise ValueError("AdaDelta's kernel takes float32 only")
    if sum(g.numel() for g in gradients) != parameters.numel() or rates.numel() != members:
        raise ValueError("gradients or learning rates are not as many as the parameters need")
    kernel, offset, rates = _jit(_adadelta_kernel, 5), 0, rates.reshape(-1).contiguous()
    with torch.cuda.device_of(parameters):
        for gradient in gradients:
            own = gradient.reshape(members, -1).contiguous()  # copies only what lies otherwise
            size = own.shape[1]
            kernel[(members * -(-size // BLOCK),)](
                *matrices, own, rates, size, offset, parameters.shape[1], rho, 1 - rho, epsilon,
                weight_decay, decays=weight_decay != 0, block=BLOCK,
            )  # fmt: skip
            offset += size


@no_type_check
def _adadelta_kernel(
    parameters, squares, updates, gradient, rates, size, offset, count, rho, rest, epsilon, decay,
    decays: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(size, block)
    k = (tl.program_id(0) // blocks).to(tl.int64)  # K * P may be beyond 32 bits
    column = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    mask = column < size
    place = k * count + offset + column
    g = tl.load(gradient + k * size + column, mask=mask, other=0.0)
    p = tl.load(parameters + place, mask=mask, other=0.0)
    s = tl.load(squares + place, mask=mask, other=0.0)
    u = tl.load(updates + place, mask=mask, other=0.0)
    if decays:
        g += decay * p
    s = rho * s + rest * (g * g)
    # Correctly rounded: Triton's plain root and division are approximations.
    update = tl.sqrt_rn(tl.div_rn(u + epsilon, s + epsilon)) * g
    tl.store(squares + place, s, mask=mask)
    tl.store(updates + place, rho * u + rest * (update * update), mask=mask)
    tl.store(parameters + place, p - tl.load(rates + k) * update, mask=mask)


def batched_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, input_precision: str
) -> Tensor:
    """Return ``conv2d(x, weight.flatten(0, 1), bias, stride, s // 2, groups=K)``, differentiable.

    Args:
        x: ``(b, K * ci, h, w)``, best channels last; float32 or bfloat16.
        weight: ``(K, co, ci, s, s)``, s odd, of x's type. Under autocast both are cast to its type.
        bias: ``(K, co)`` float32, or None.
        stride: 1 or more, in both directions.
        input_precision: of products of float32: ``ieee`` or ``tf32``. Sums are float32 in any case.

    Returns:
        ``(b, K * co, ceil(h / stride), ceil(w / stride))`` of x's type, channels last.

    Raises:
        ValueError: shapes or types that do not go together, or 2**30 pixels or more.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    members, _, channels_in, side, width = weight.shape
    if x.shape[1] != members * channels_in or side != width or side % 2 == 0:
        raise ValueError(f"maps {tuple(x.shape)} do not go with weights {tuple(weight.shape)}")
    if x.dtype != weight.dtype:
        raise ValueError(f"maps are {x.dtype}, weights {weight.dtype}; must be the same")
    if x[:, 0].numel() >= 2**30:
        raise ValueError(f"maps {tuple(x.shape)} have too many pixels for a kernel")
    y: Tensor = _Convolution.apply(x, weight, bias, stride, input_precision)
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, precision: str
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.precision = stride, precision
        grid, first = tuple(-(-length // stride) for length in x.shape[2:]), -(weight.shape[3] // 2)
        size = (len(x), weight.shape[0] * weight.shape[1], *grid)
        y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        patches = weight.permute(0, 1, 3, 4, 2)
        _convolve(x, patches, bias, y, grid, stride, (first, first), precision)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        result: list[Tensor | None] = [None] * 5
        if ctx.needs_input_grad[0]:
            result[0] = _gradient_of_x(gradient, x, weight, ctx.stride, ctx.precision)
        if ctx.needs_input_grad[1]:
            result[1] = _gradient_of_weight(gradient, x, weight, ctx.stride, ctx.precision)
        if ctx.needs_input_grad[2]:
            result[2] = gradient.sum((0, 2, 3), dtype=torch.float32).view(len(weight), -1)
        return tuple(result)


def _gradient_of_x(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, precision: str
) -> Tensor:
    """Return the gradient for x from that for its convolution's outputs, all channels last.

    One in ``stride`` rows of x meets the same rows of the weights; so for columns. The gradient of
    such pixels is a convolution without stride, by those weights upside down.
    """
    (height, width), side = x.shape[2:], weight.shape[3]
    result = torch.empty_like(x) if side >= stride else torch.zeros_like(x)  # some are left out
    for row, column in product(range(min(stride, height)), range(min(stride, width))):
        skipped = divmod(row + side // 2, stride), divmod(column + side // 2, stride)
        patches = weight[..., skipped[0][1] :: stride, skipped[1][1] :: stride].flip(3, 4)
        if not patches.numel():
            continue
        first = skipped[0][0] - patches.shape[3] + 1, skipped[1][0] - patches.shape[4] + 1
        grid = len(range(row, height, stride)), len(range(column, width, stride))
        patches, at = patches.permute(0, 2, 3, 4, 1), (row, column)
        _convolve(gradient, patches, None, result, grid, 1, first, precision, stride, at)
    return result


def _up(count: int, most: int) -> int:
    """Return a power of two that a count fits into, from 16, Triton's least, to another."""
    return min(most, max(16, 1 << (count - 1).bit_length()))


def _convolve(
    x: Tensor, patches: Tensor, bias: Tensor | None, y: Tensor, grid: Sequence[int], stride: int,
    first: tuple[int, int], precision: str, step: int = 1, at: tuple[int, int] = (0, 0),
) -> None:  # fmt: skip
    """Fill pixels of ``y``: a grid of rows and columns, from ``at`` on, each in ``step``.

    ``x`` is ``(b, K * ci, ., .)``, ``y`` ``(b, K * co, ., .)``, both channels last, the weights of
    patches of t rows and u columns ``(K, co, t, u, ci)``. The first patch begins in ``x`` at the
    row and column ``first``, the next a ``stride`` further; all is zero outside.
    """
    members, channels, rows, columns, channels_in = patches.shape
    pixels, plain = len(x) * grid[0] * grid[1], x.dtype == torch.float32
    block_n = _up(channels, 64)
    others = members * -(-channels // block_n)
    block_m = 128 if -(-pixels // 128) * others >= PROGRAMS // 4 else 64
    # Threads that do products one by one read the weights of some channels at once; tensor cores
    # want every channel's in a row.
    by_threads = plain and precision == "ieee"
    with torch.cuda.device_of(x):
        _jit(_convolution_kernel, 5)[(-(-pixels // block_m) * others,)](
            x, (patches.movedim(1, -1) if by_threads else patches).contiguous(),
            x if bias is None else bias.contiguous(), y, channels, members, pixels,
            *x.shape[2:], *y.shape[2:], stride, *first, step, *at,
            rows=grid[0], columns=grid[1], channels_in=channels_in, taps=rows * columns,
            tap_columns=columns, biased=bias is not None, precision=precision, turned=by_threads,
            block_m=block_m, block_n=block_n, num_warps=4,
            block_k=_up(rows * columns * channels_in, 32 if plain else 64),
        )  # fmt: skip


@no_type_check
def _convolution_kernel(
    x, weight, bias, y, channels, members, pixels, height, width, y_height, y_width,
    stride, first_row, first_column, step, row_at, column_at,
    rows: tl.constexpr, columns: tl.constexpr, channels_in: tl.constexpr,
    taps: tl.constexpr, tap_columns: tl.constexpr, biased: tl.constexpr,
    precision: tl.constexpr, turned: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    # A program computes some channels of some pixels of a member. Members' programs for the same
    # pixels follow each other: their inputs lie side by side.
    tiles, number = tl.cdiv(channels, block_n), tl.program_id(0)
    n = (number % tiles) * block_n + tl.arange(0, block_n)
    k = (number // tiles) % members
    m = (number // (tiles * members)) * block_m + tl.arange(0, block_m)
    image, row, column = m // (rows * columns), (m // columns) % rows, m % columns
    x_row, x_column = row * stride + first_row, column * stride + first_column
    # Pixels are fewer than 2**31, numbers in a tensor may be more.
    start = ((image * height + x_row) * width + x_column).to(tl.int64) * (members * channels_in)
    start += k * channels_in
    x_row = tl.where(m < pixels, x_row, height)  # outside
    own = weight + k.to(tl.int64) * (channels * taps * channels_in)
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for begin in range(0, taps * channels_in, block_k):
        r = begin + tl.arange(0, block_k)
        tap = r // channels_in
        tap_row, tap_column = tap // tap_columns, tap % tap_columns
        shift = (tap_row * width + tap_column).to(tl.int64) * (members * channels_in)
        shift += r % channels_in
        at_row = x_row[:, None] + tap_row[None, :]
        at_column = x_column[:, None] + tap_column[None, :]
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        inside &= (tap < taps)[None, :]
        a = tl.load(x + (start[:, None] + shift[None, :]), mask=inside, other=0.0)
        if turned:
            place = r[:, None] * channels + n[None, :]
        else:
            place = r[:, None] + n[None, :] * (taps * channels_in)
        there = (tap < taps)[:, None] & (n < channels)[None, :]
        b = tl.load(own + place, mask=there, other=0.0)
        total = tl.dot(a, b, total, input_precision=precision)
    if biased:
        total += tl.load(bias + k * channels + n, mask=n < channels, other=0.0)[None, :]
    row, column = row * step + row_at, column * step + column_at
    end = ((image * y_height + row) * y_width + column).to(tl.int64) * (members * channels)
    place = (end + k * channels)[:, None] + n[None, :]
    there = (m < pixels)[:, None] & (n < channels)[None, :]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=there)


def _gradient_of_weight(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, precision: str
) -> Tensor:
    """Return the gradient for weights, of their shape and type; both maps lie channels last.

    The sum over pixels is split into parts where there is too little else to do at once. Those are
    added up in a fixed order, so that it is the same gradient every time.
    """
    members, channels, channels_in, side, _ = weight.shape
    height, width = gradient.shape[2:]
    pixels, weights = len(x) * height * width, side * side * channels_in
    block_n, block_r = _up(channels, 64), _up(weights, 64)
    block_m = 32 if x.dtype == torch.float32 else 64
    programs = members * -(-channels // block_n) * -(-weights // block_r)
    parts = max(1, min(PROGRAMS // programs, -(-pixels // block_m)))
    sums = torch.empty((parts, *weight.shape), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _jit(_weight_kernel, 4)[(programs * parts,)](
            x, gradient, sums, channels, members, pixels, *x.shape[2:], stride,
            -(-pixels // (block_m * parts)), rows=height, columns=width, channels_in=channels_in,
            side=side, precision=precision, block_m=block_m, block_n=block_n, block_r=block_r,
            num_warps=4,
        )  # fmt: skip
    return (sums[0] if parts == 1 else sums.sum(0)).to(weight.dtype)


@no_type_check
def _weight_kernel(
    x, gradient, sums, channels, members, pixels, height, width, stride, steps,
    rows: tl.constexpr, columns: tl.constexpr, channels_in: tl.constexpr,
    side: tl.constexpr, precision: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_r: tl.constexpr,
):  # fmt: skip
    # A program sums up some places of a patch for some channels of a member, over a part of the
    # pixels.
    tiles_n, number = tl.cdiv(channels, block_n), tl.program_id(0)
    tiles_r = tl.cdiv(side * side * channels_in, block_r)
    n = (number % tiles_n) * block_n + tl.arange(0, block_n)
    r = ((number // tiles_n) % tiles_r) * block_r + tl.arange(0, block_r)
    k = (number // (tiles_n * tiles_r)) % members
    part = number // (tiles_n * tiles_r * members)
    tap, channel = r // channels_in, r % channels_in
    tap_row, tap_column = tap // side - side // 2, tap % side - side // 2
    shift = (tap_row * width + tap_column).to(tl.int64) * (members * channels_in)
    shift += k * channels_in + channel
    total = tl.zeros((block_r, block_n), dtype=tl.float32)
    for i in range(steps):
        m = (part * steps + i) * block_m + tl.arange(0, block_m)
        image, row, column = m // (rows * columns), (m // columns) % rows, m % columns
        row, column = row * stride, column * stride
        start = ((image * height + row) * width + column).to(tl.int64) * (members * channels_in)
        row = tl.where(m < pixels, row, height + side)  # outside
        at_row, at_column = row[None, :] + tap_row[:, None], column[None, :] + tap_column[:, None]
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        inside &= (tap < side * side)[:, None]
        a = tl.load(x + (start[None, :] + shift[:, None]), mask=inside, other=0.0)
        place = (m.to(tl.int64) * (members * channels) + k * channels)[:, None] + n[None, :]
        there = (m < pixels)[:, None] & (n < channels)[None, :]
        b = tl.load(gradient + place, mask=there, other=0.0)
        total = tl.dot(a, b, total, input_precision=precision)
    place = ((part * members + k).to(tl.int64) * channels + n)[None, :] * channels_in
    place = (place + channel[:, None]) * (side * side) + tap[:, None]
    there = (tap < side * side)[:, None] & (n < channels)[None, :]
    tl.store(sums + place, total, mask=there)
