"""Triton kernels for stacks on CUDA: AdaDelta in one pass, and all members' convolutions at once.

PyTorch's own operations do the same and are what these are tested against; who calls asks `usable`
first. Triton is imported when the first kernel is wanted: nobody else pays for it or needs it.

A stack's maps are ``(b, K * channels, height, width)``, channels last: in memory the K members'
channels of a pixel lie side by side. A convolution is the product of patches and weights
(Chetlur et al. 2014, "implicit GEMM"): patches are put together as they are read, never stored.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

BLOCK = 1024  # weights that a program of AdaDelta updates
PROGRAMS = 1056  # eight for each of an H100's 132 processors: fewer leave some of them idle

tl: Any = None  # triton.language from the first kernel on; kernels look it up here
constexpr = Any  # Triton knows arguments by this annotation that are compiled into a kernel


@cache
def _jit(kernel: Callable[..., None], *numbers: str) -> Any:
    """Return a kernel for Triton to compile and launch, once for all values of some numbers."""
    global tl
    tl = importlib.import_module("triton.language")
    return importlib.import_module("triton").jit(kernel, do_not_specialize=list(numbers))


def adadelta_step(
    parameters: Tensor,
    gradients: Sequence[Tensor],
    squares: Tensor,
    updates: Tensor,
    rates: Tensor,
    rho: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """Do `stages.lib.adadelta.AdaDelta.step` in place, with one read of each number and one write.

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
    members, count = parameters.shape
    matrices = (parameters, squares, updates)
    if not all(m.is_contiguous() and m.shape == parameters.shape for m in matrices):
        raise ValueError("parameters, squares and updates must be contiguous and of one shape")
    if any(t.dtype != torch.float32 for t in (*matrices, rates, *gradients)):
        raise ValueError("AdaDelta's kernel takes float32 only")
    if sum(g.numel() for g in gradients) != parameters.numel() or rates.numel() != members:
        raise ValueError("gradients or learning rates are not as many as the parameters need")
    kernel = _jit(_adadelta, "size", "offset", "row", "rho", "rest", "epsilon", "decay")
    rates, offset = rates.reshape(-1).contiguous(), 0
    with torch.cuda.device_of(parameters):
        for gradient in gradients:
            own = gradient.reshape(members, -1).contiguous()  # copies only what lies otherwise
            size = own.shape[1]
            kernel[(members * -(-size // BLOCK),)](
                *matrices, own, rates, size, offset, count, rho, 1 - rho, epsilon, weight_decay,
                decays=weight_decay != 0, block=BLOCK,
            )  # fmt: skip
            offset += size


def _adadelta(
    parameters: Any,
    squares: Any,
    updates: Any,
    gradient: Any,
    rates: Any,
    size: Any,
    offset: Any,
    row: Any,
    rho: Any,
    rest: Any,
    epsilon: Any,
    decay: Any,
    decays: "constexpr",
    block: "constexpr",
) -> None:
    blocks = tl.cdiv(size, block)
    k = (tl.program_id(0) // blocks).to(tl.int64)  # K * P may be beyond 32 bits
    column = (tl.program_id(0) % blocks) * block + tl.arange(0, block)
    mask = column < size
    place = k * row + offset + column
    g = tl.load(gradient + k * size + column, mask=mask, other=0.0)
    p = tl.load(parameters + place, mask=mask, other=0.0)
    s = tl.load(squares + place, mask=mask, other=0.0)
    u = tl.load(updates + place, mask=mask, other=0.0)
    if decays:
        g += decay * p
    s = rho * s + rest * (g * g)
    # Correctly rounded: Triton's plain root and division are approximations.
    update = tl.sqrt_rn(tl.div_rn(u + epsilon, s + epsilon)) * g
    u = rho * u + rest * (update * update)
    tl.store(squares + place, s, mask=mask)
    tl.store(updates + place, u, mask=mask)
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
        ValueError: shapes or types that do not go together, or 2**31 pixels or more.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    members, _, channels_in, side, width = weight.shape
    if x.shape[1] != members * channels_in or side != width or side % 2 == 0:
        raise ValueError(f"maps {tuple(x.shape)} do not go with weights {tuple(weight.shape)}")
    if x.dtype != weight.dtype:
        raise ValueError(f"maps are {x.dtype}, weights {weight.dtype}; must be the same")
    if x.shape[0] * x.shape[2] * x.shape[3] >= 2**31:
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
        return _output(x, weight, bias, stride, precision)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_x = _gradient_of_x(gradient, weight, x.shape, ctx.stride, ctx.precision)
        if ctx.needs_input_grad[1]:
            for_weight = _gradient_of_weight(gradient, x, weight, ctx.stride, ctx.precision)
        if ctx.needs_input_grad[2]:
            sums = gradient.sum((0, 2, 3), dtype=torch.float32)
            for_bias = sums.view(len(weight), -1)
        return for_x, for_weight, for_bias, None, None


def _output(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, precision: str) -> Tensor:
    """Return the maps after a convolution; x lies channels last."""
    members, channels, _, side, _ = weight.shape
    height, width = (-(-length // stride) for length in x.shape[2:])
    y = _empty(x, (len(x), members * channels, height, width))
    patches = weight.permute(0, 1, 3, 4, 2)
    _convolve(x, patches, bias, y, (height, width), stride, -(side // 2), -(side // 2), precision)
    return y


def _gradient_of_x(
    gradient: Tensor, weight: Tensor, shape: Sequence[int], stride: int, precision: str
) -> Tensor:
    """Return the gradient for maps of a shape, from that for the convolution's outputs.

    Of the inputs' rows, each in ``stride`` meets the same rows of the weights; so for columns. Such
    inputs make maps whose gradient is a convolution without stride, by those weights upside down.
    """
    side, pad = weight.shape[3], weight.shape[3] // 2
    result = _empty(gradient, shape)
    if side < stride:
        result.zero_()  # Some inputs were left out.
    for top, left in product(range(min(stride, shape[2])), range(min(stride, shape[3]))):
        met = weight[..., (top + pad) % stride :: stride, (left + pad) % stride :: stride]
        patches = met.flip(3, 4).permute(0, 2, 3, 4, 1)
        if not patches.numel():
            continue
        grid = len(range(top, shape[2], stride)), len(range(left, shape[3], stride))
        first_row = (top + pad) // stride - (patches.shape[2] - 1)
        first_column = (left + pad) // stride - (patches.shape[3] - 1)
        _convolve(
            gradient, patches, None, result, grid, 1, first_row, first_column, precision,
            step=stride, top=top, left=left,
        )  # fmt: skip
    return result


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Return maps of a shape, not filled, on a tensor's device and of its type."""
    return like.new_empty(tuple(shape)).contiguous(memory_format=torch.channels_last)


def _up(count: int, least: int, most: int) -> int:
    """Return the power of two that holds a count, from one to another; Triton's are no less."""
    return min(most, max(least, 1 << (count - 1).bit_length()))


def _convolve(
    x: Tensor,
    patches: Tensor,
    bias: Tensor | None,
    y: Tensor,
    grid: tuple[int, int],
    stride: int,
    first_row: int,
    first_column: int,
    precision: str,
    *,
    step: int = 1,
    top: int = 0,
    left: int = 0,
) -> None:
    """Fill rows of ``y`` from ``top``, columns from ``left``, each in ``step``, by a convolution.

    Args:
        x: ``(b, K * ci, h, w)`` channels last.
        patches: ``(K, co, t, u, ci)`` weights of patches of t rows and u columns.
        bias: ``(K, co)`` or None.
        y: ``(b, K * co, ., .)`` channels last.
        grid: how many rows and columns are filled.
        stride: from one's patch in ``x`` to the next one's.
        first_row: where in ``x`` the first patch begins; may be outside, where all is zero.
        first_column: likewise.
        precision: for Triton's products.
        step: from a row of ``y`` that is filled to the next.
        top: the first row filled.
        left: the first column filled.
    """
    members, channels, rows, columns, channels_in = patches.shape
    reduced = rows * columns * channels_in
    pixels = len(x) * grid[0] * grid[1]
    block_n = _up(channels, 16, 64)
    others = members * -(-channels // block_n)
    block_m = 128 if -(-pixels // 128) * others >= PROGRAMS // 4 else 64
    block_k = _up(reduced, 16, 32 if x.dtype == torch.float32 else 64)
    numbers = ("members", "pixels", "height", "width", "grid_rows", "grid_columns", "y_height",
               "y_width", "stride", "first_row", "first_column", "step", "top", "left")  # fmt: skip
    with torch.cuda.device_of(x):
        _jit(_convolution, *numbers)[(-(-pixels // block_m) * others,)](
            x, patches.contiguous(), x if bias is None else bias.contiguous(), y,
            members, channels, pixels, *x.shape[2:], *grid, *y.shape[2:],
            stride, first_row, first_column, step, top, left,
            channels_in=channels_in, taps=rows * columns, tap_columns=columns,
            biased=bias is not None, precision=precision,
            block_m=block_m, block_n=block_n, block_k=block_k, num_warps=4,
        )  # fmt: skip


def _convolution(
    x: Any,
    weight: Any,
    bias: Any,
    y: Any,
    members: Any,
    channels: Any,
    pixels: Any,
    height: Any,
    width: Any,
    grid_rows: Any,
    grid_columns: Any,
    y_height: Any,
    y_width: Any,
    stride: Any,
    first_row: Any,
    first_column: Any,
    step: Any,
    top: Any,
    left: Any,
    channels_in: "constexpr",
    taps: "constexpr",
    tap_columns: "constexpr",
    biased: "constexpr",
    precision: "constexpr",
    block_m: "constexpr",
    block_n: "constexpr",
    block_k: "constexpr",
) -> None:
    # A program computes some pixels of some channels of a member. The members of the same pixels
    # follow each other, for their inputs lie side by side.
    tiles = tl.cdiv(channels, block_n)
    number = tl.program_id(0)
    n = (number % tiles) * block_n + tl.arange(0, block_n)
    k = (number // tiles) % members
    m = (number // (tiles * members)) * block_m + tl.arange(0, block_m)
    image = m // (grid_rows * grid_columns)
    row = (m // grid_columns) % grid_rows
    column = m % grid_columns
    x_row = row * stride + first_row
    x_column = column * stride + first_column
    # Offsets in a tensor may be beyond 32 bits, pixels are not.
    start = ((image * height + x_row) * width + x_column).to(tl.int64) * (members * channels_in)
    start += k * channels_in
    x_row = tl.where(m < pixels, x_row, height)  # outside: nothing is read
    own = weight + (k * channels + n).to(tl.int64) * (taps * channels_in)
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for begin in range(0, taps * channels_in, block_k):
        r = begin + tl.arange(0, block_k)
        tap = r // channels_in
        tap_row = tap // tap_columns
        tap_column = tap % tap_columns
        shift = (tap_row * width + tap_column).to(tl.int64) * (members * channels_in)
        shift += r % channels_in
        at_row = x_row[:, None] + tap_row[None, :]
        at_column = x_column[:, None] + tap_column[None, :]
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        inside = inside & (tap < taps)[None, :]
        a = tl.load(x + (start[:, None] + shift[None, :]), mask=inside, other=0.0)
        there = (tap < taps)[:, None] & (n < channels)[None, :]
        b = tl.load(own[None, :] + r[:, None], mask=there, other=0.0)
        total = tl.dot(a, b, total, input_precision=precision)
    if biased:
        total += tl.load(bias + k * channels + n, mask=n < channels, other=0.0)[None, :]
    y_row = row * step + top
    y_column = column * step + left
    end = ((image * y_height + y_row) * y_width + y_column).to(tl.int64) * (members * channels)
    end += k * channels
    there = (m < pixels)[:, None] & (n < channels)[None, :]
    tl.store(y + (end[:, None] + n[None, :]), total.to(y.dtype.element_ty), mask=there)


def _gradient_of_weight(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, precision: str
) -> Tensor:
    """Return the gradient for the weights, of their shape and type; both maps lie channels last.

    The sum over pixels is split into parts where there is too little else to do at once. They are
    added up in a fixed order: the same gradient comes out every time.
    """
    members, channels, channels_in, side, _ = weight.shape
    height, width = gradient.shape[2:]
    pixels = len(x) * height * width
    block_n = _up(channels, 16, 64)
    block_r = _up(side * side * channels_in, 16, 64)
    block_m = 32 if x.dtype == torch.float32 else 64
    programs = members * -(-channels // block_n) * -(-side * side * channels_in // block_r)
    parts = max(1, min(PROGRAMS // programs, -(-pixels // block_m)))
    steps = -(-pixels // (block_m * parts))
    sums = torch.empty((parts, *weight.shape), dtype=torch.float32, device=x.device)
    numbers = ("members", "pixels", "height", "width", "stride", "steps")
    with torch.cuda.device_of(x):
        _jit(_weight_gradient, *numbers)[(programs * parts,)](
            x, gradient, sums, members, channels, pixels, *x.shape[2:], stride, steps,
            rows=height, columns=width, channels_in=channels_in, side=side, precision=precision,
            block_m=block_m, block_n=block_n, block_r=block_r, num_warps=4,
        )  # fmt: skip
    return (sums[0] if parts == 1 else sums.sum(0)).to(weight.dtype)


def _weight_gradient(
    x: Any,
    gradient: Any,
    sums: Any,
    members: Any,
    channels: Any,
    pixels: Any,
    height: Any,
    width: Any,
    stride: Any,
    steps: Any,
    rows: "constexpr",
    columns: "constexpr",
    channels_in: "constexpr",
    side: "constexpr",
    precision: "constexpr",
    block_m: "constexpr",
    block_n: "constexpr",
    block_r: "constexpr",
) -> None:
    # A program computes the weights of some places in a patch for some channels of a member, from a
    # part of the pixels.
    tiles_n = tl.cdiv(channels, block_n)
    tiles = tiles_n * tl.cdiv(side * side * channels_in, block_r)
    number = tl.program_id(0)
    n = (number % tiles_n) * block_n + tl.arange(0, block_n)
    r = ((number // tiles_n) % (tiles // tiles_n)) * block_r + tl.arange(0, block_r)
    k = (number // tiles) % members
    part = number // (tiles * members)
    tap = r // channels_in
    tap_row = tap // side - side // 2
    tap_column = tap % side - side // 2
    shift = (tap_row * width + tap_column).to(tl.int64) * (members * channels_in)
    shift += k * channels_in + r % channels_in
    wide = channels * members
    total = tl.zeros((block_r, block_n), dtype=tl.float32)
    for number_in_part in range(0, steps):
        m = (part * steps + number_in_part) * block_m + tl.arange(0, block_m)
        image = m // (rows * columns)
        x_row = ((m // columns) % rows) * stride
        x_column = (m % columns) * stride
        start = ((image * height + x_row) * width + x_column).to(tl.int64)
        start = start * (members * channels_in)
        x_row = tl.where(m < pixels, x_row, 2 * height)  # outside with every tap: nothing is read
        at_row = x_row[None, :] + tap_row[:, None]
        at_column = x_column[None, :] + tap_column[:, None]
        inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
        inside = inside & (tap < side * side)[:, None]
        a = tl.load(x + (start[None, :] + shift[:, None]), mask=inside, other=0.0)
        there = (m < pixels)[:, None] & (n < channels)[None, :]
        place = (m.to(tl.int64) * wide + k * channels)[:, None] + n[None, :]
        b = tl.load(gradient + place, mask=there, other=0.0)
        total = tl.dot(a, b, total, input_precision=precision)
    place = ((part * members + k).to(tl.int64) * channels + n)[None, :] * channels_in
    place = (place + (r % channels_in)[:, None]) * (side * side) + tap[:, None]
    there = (tap < side * side)[:, None] & (n < channels)[None, :]
    tl.store(sums + place, total, mask=there)
