"""Triton's kernels against PyTorch's operations.

They are run by Triton's interpreter, which is chosen when Triton is imported: in a process of its
own, which this module is the script of. It is lenient, so they are compiled for an H100 as well.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stages.lib.components.optimizers import OptimizerParams, Stepper
from stages.lib.kernels import checks, stacked

RHO, EPSILON, STEPS = 0.9, 1e-2, 4
RATES = [1.0, 0.3, 2.0]
#: of a member's parameters; the last is more than a program updates
SHAPES = [(7, 3), (1,), (4, 2, 3, 3), (stacked.BLOCK + 1,)]
UPDATED = [(1, 0.0), (3, 0.1)]  # members, decay

#: (K, ci, co, side, stride, with bias, b, h, w): with tiles of 64 pixels, 64 channels and 64 places
#: in a patch, three of pixels, then also several of the others.
CONVOLUTIONS = [
    (1, 1, 5, 3, 1, True, 2, 9, 7),
    (3, 3, 16, 3, 2, False, 2, 9, 7),
    (3, 16, 4, 1, 1, True, 2, 9, 7),
    (1, 16, 4, 1, 2, False, 2, 9, 7),
    (2, 70, 3, 3, 1, True, 1, 4, 5),
    (2, 3, 70, 3, 2, True, 1, 1, 6),
    (2, 3, 4, 5, 3, True, 1, 8, 1),
]
NAMES = ["outputs", "gradient of x", "gradient of weight", "gradient of bias"]
#: Of the largest number. Each is a sum of at most 630 products in float32, each sum wrong by 6e-8.
TOLERANCE = 1e-5


def start(members: int) -> Tensor:
    """Return the members' parameters, ``(K, P)``."""
    size = sum(torch.Size(shape).numel() for shape in SHAPES)
    return torch.randn(members, size, generator=torch.Generator().manual_seed(0))


def gradients(members: int) -> list[list[Tensor]]:
    """Return each step's gradients; the third lies channels last, as convolutions leave theirs."""
    generator = torch.Generator().manual_seed(1)
    steps = [[torch.randn(members, *s, generator=generator) for s in SHAPES] for _ in range(STEPS)]
    for step in steps:
        step[2] = step[2].permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    return steps


def drawn(case: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return a convolution's inputs, and the gradient of its outputs."""
    members, channels_in, channels, side, stride, biased, b, height, width = case
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(b, members * channels_in, height, width, generator=generator)
    weight = torch.randn(members, channels, channels_in, side, side, generator=generator)
    bias = torch.randn(members, channels, generator=generator) if biased else None
    places = -(-height // stride), -(-width // stride)
    return x, weight, bias, torch.randn(b, members * channels, *places, generator=generator)


def differentiated(
    convolve: Callable[..., Tensor], case: tuple[Any, ...], dtype: torch.dtype, bias: torch.dtype
) -> list[Tensor]:
    """Return outputs and gradients, of inputs and a bias of some types."""
    x, weight, own, gradient = drawn(case)
    leaves = [part.to(dtype).requires_grad_() for part in (x, weight)]
    leaves += [] if own is None else [own.to(bias).requires_grad_()]
    y = convolve(*leaves[:2], leaves[2] if own is not None else None, case[4])
    return [y.detach(), *torch.autograd.grad(y, leaves, gradient.to(y.dtype))]


def expected(case: tuple[Any, ...]) -> list[Tensor]:
    """Return PyTorch's outputs and gradients in float64."""

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        flat, padding = None if bias is None else bias.flatten(), weight.shape[3] // 2
        return functional.conv2d(x, weight.flatten(0, 1), flat, stride, padding, groups=len(weight))

    return differentiated(convolve, case, torch.float64, torch.float64)


def error(got: Tensor, right: Tensor) -> float:
    """Return the largest difference, relative to the largest number."""
    assert got.shape == right.shape
    return float((got - right).abs().max() / right.abs().max())


# What the process of its own does.


def interpret(path: str) -> None:
    """Compute all cases by the interpreter, and save the results."""
    lazy = "triton" not in sys.modules
    import triton.language as tl  # noqa: F401
    from triton.runtime import interpreter

    correct(interpreter)
    results: dict[str, Any] = {"lazy": lazy}

    def convolve(*arguments: Any) -> Tensor:
        return stacked.batched_conv2d(*arguments, "ieee")

    for members, decay in UPDATED:
        parameters = start(members)
        squares, updates = torch.zeros_like(parameters), torch.zeros_like(parameters)
        rates = torch.tensor(RATES[:members])
        for step, gradient in enumerate(gradients(members)):
            own = rates.unsqueeze(1) if step else rates
            stacked.adadelta_step(parameters, gradient, squares, updates, own, RHO, EPSILON, decay)
        results[f"{members} {decay}"] = [parameters, squares, updates]
    for case in CONVOLUTIONS:
        results[str(case)] = differentiated(convolve, case, torch.float32, torch.float32)
    half, single = torch.bfloat16, torch.float32
    results["bfloat16"] = differentiated(convolve, CONVOLUTIONS[-1], half, single)
    with torch.autocast("cpu", half):
        results["autocast"] = differentiated(convolve, CONVOLUTIONS[-1], single, single)
    results["repeated"] = differentiated(convolve, CONVOLUTIONS[0], single, single)
    stacked.PROGRAMS = 1  # one part, and larger tiles, as for many members
    results["large"] = differentiated(convolve, CONVOLUTIONS[0], single, single)
    state = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", half):
        for check in checks.CHECKS.values():
            check(torch.device("cpu"))
    results["untouched"] = torch.equal(state, torch.get_rng_state())
    torch.save(results, path)


def correct(interpreter: Any) -> None:
    """Correct the interpreter: it multiplies bfloat16's bits, and 3.6 cannot count in new NumPy."""
    import numpy as np
    import triton.language as tl

    builder, plain_patch = interpreter.InterpreterBuilder, interpreter._patch_lang_tensor
    plain_dot = builder.create_dot

    def wide(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        return plain_dot(self, wide(a), wide(b), *others)

    def patch(tensor: Any, scope: Any) -> None:
        plain_patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    builder.create_dot, interpreter._patch_lang_tensor = dot, patch


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the interpreter computes."""
    pytest.importorskip("triton", reason="Triton is not installed: there is nothing to interpret")
    path = tmp_path_factory.mktemp("kernels") / "results"
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_kernels", str(path)], cwd=Path(__file__).parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return torch.load(path)


@pytest.mark.parametrize(("members", "decay"), UPDATED)
def test_adadelta_steps_as_in_torchs_operations(interpreted: Any, members: int, decay: Any) -> None:
    parameters = start(members).double()
    rates = torch.tensor(RATES[:members]).double().unsqueeze(1)
    optimizer = Stepper(parameters, OptimizerParams(rho=RHO, epsilon=EPSILON, weight_decay=decay))
    for gradient in gradients(members):
        optimizer.step([part.double() for part in gradient], rates)
    right = [parameters, *optimizer.state.values()]
    got = interpreted[f"{members} {decay}"]
    assert max(error(*pair) for pair in zip(got, right, strict=True)) < 1e-6


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_are_torchs(interpreted: dict[str, Any], case: tuple[Any, ...]) -> None:
    got, right = interpreted[str(case)], expected(case)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    for name, mine, wanted in zip(NAMES, got, right, strict=False):
        assert error(mine, wanted) < TOLERANCE, name
    assert len(got) == len(right)


def test_bfloat16_is_rounded_once(interpreted: dict[str, Any]) -> None:
    """A result is wrong by its own rounding and by its inputs', 8 bits each: sums are float32."""
    right = expected(CONVOLUTIONS[-1])
    got, cast = interpreted["bfloat16"], interpreted["autocast"]
    assert [part.dtype for part in got] == [torch.bfloat16] * 3 + [torch.float32]
    assert [part.dtype for part in cast] == [torch.bfloat16] + [torch.float32] * 3
    assert all(1e-4 < error(*pair) < 2e-2 for pair in zip(got, right, strict=True))
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(got, cast, strict=True))


def test_convolutions_repeat_whatever_is_around(interpreted: dict[str, Any]) -> None:
    """To the bit; by other tiles within rounding; and nothing else is touched."""
    first, again = interpreted[str(CONVOLUTIONS[0])], interpreted["repeated"]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    got, right = interpreted["large"], expected(CONVOLUTIONS[0])
    assert max(error(*pair) for pair in zip(got, right, strict=True)) < TOLERANCE
    assert interpreted["lazy"]
    assert interpreted["untouched"]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the names of kernels that were compiled for an H100 instead of launched."""
    pytest.importorskip("triton", reason="Triton is not installed: there is no compiler")
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("TRITON_INTERPRET is set: Triton does not compile")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile  # noqa: A004

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names: list[str] = []
    types = {torch.float32: "*fp32", torch.bfloat16: "*bf16", int: "i32", float: "fp32"}
    plain = stacked._jit

    class Compiled:
        def __init__(self, kernel: Callable[..., None], special: int) -> None:
            self.jitted = plain(kernel, special)

        def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
            return self.compile

        def compile(self, *arguments: Any, num_warps: int = 4, **constants: Any) -> None:
            variables = zip(self.jitted.arg_names, arguments, strict=False)
            signature = {name: types[getattr(a, "dtype", type(a))] for name, a in variables}
            signature |= dict.fromkeys(constants, "constexpr")
            source = ASTSource(self.jitted, signature, constants)
            done = compile(source, GPUTarget("cuda", 90, 32), {"num_warps": num_warps})
            assert done.asm["cubin"]
            names.append(self.jitted.fn.__name__)

    monkeypatch.setattr(stacked, "_jit", Compiled)
    return names


def test_kernels_compile_for_a_card(compiled: list[str]) -> None:
    matrix = torch.zeros(2, 8)
    stacked.adadelta_step(matrix, [matrix], matrix, matrix, torch.ones(2), 0.9, 1e-6, 0.1)
    for dtype, precision, _, _ in checks.CASES:
        weight = torch.zeros(2, 16, 16, 3, 3, dtype=dtype, requires_grad=True)
        x, bias = torch.zeros(2, 32, 5, 5, dtype=dtype), torch.zeros(2, 16)
        stacked.batched_conv2d(x, weight, bias, 2, precision).sum().backward()
    each = ["_convolution_kernel", "_weight_kernel"]
    assert compiled == ["_adadelta_kernel", *each * len(checks.CASES)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", checks.CHECKS)
def test_a_card_can_use_them(kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.usable(torch.device("cuda"), kernel), capsys.readouterr().err


def test_no_other_device_can_and_they_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(checks.CHECKS, "never wrong", lambda _: None)
    for device, value, usable in (("cpu", "", False), ("cuda", "", True), ("cuda", "off", False)):
        monkeypatch.setenv(checks.VARIABLE, value)
        assert checks.usable(torch.device(device), "never wrong") is usable
        checks.usable.cache_clear()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("failure", ["no Triton", "wrong"])
def test_a_failure_is_told_once_in_a_line(
    failure: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(device: torch.device) -> None:
        checks._check_adadelta(torch.device("cpu"))

    if failure == "wrong":
        monkeypatch.setattr(stacked, "adadelta_step", lambda *_: None)
    else:
        stacked._jit.cache_clear()
        monkeypatch.setitem(sys.modules, "triton.language", None)
    monkeypatch.setitem(checks.CHECKS, failure, check)
    assert not checks.usable(torch.device("cuda"), failure)
    assert not checks.usable(torch.device("cuda"), failure)
    told = "ArithmeticError: wrong by" if failure == "wrong" else "ModuleNotFoundError"
    pattern = rf"warning: PyTorch's own {failure} instead of Triton's: {told}.*\n"
    assert re.fullmatch(pattern, capsys.readouterr().err)


ZEROS = torch.zeros(3, 4)
ADADELTA = [ZEROS, [ZEROS], ZEROS, ZEROS, torch.zeros(3), 0.9, 1e-6, 0.0]
CONVOLUTION = [torch.zeros(1, 4, 4, 4), torch.zeros(2, 3, 2, 3, 3), None, 1, "ieee"]


@pytest.mark.parametrize(
    ("call", "arguments", "place", "wrong", "message"),
    [
        (stacked.adadelta_step, ADADELTA, 0, torch.zeros(4, 3).T, "contiguous and of one shape"),
        (stacked.adadelta_step, ADADELTA, 2, torch.zeros(3, 5), "contiguous and of one shape"),
        (stacked.adadelta_step, ADADELTA, 1, [ZEROS.double()], "float32 only"),
        (stacked.adadelta_step, ADADELTA, 1, [torch.zeros(3, 2)], "not as many"),
        (stacked.adadelta_step, ADADELTA, 4, torch.zeros(4), "not as many"),
        (stacked.batched_conv2d, CONVOLUTION, 0, torch.zeros(1, 5, 4, 4), "do not go with"),
        (stacked.batched_conv2d, CONVOLUTION, 1, torch.zeros(2, 3, 2, 2, 2), "do not go with"),
        (stacked.batched_conv2d, CONVOLUTION, 0, CONVOLUTION[0].double(), "must be the same"),
        (
            stacked.batched_conv2d, CONVOLUTION, 0,
            torch.zeros(1).expand(2**10, 4, 2**10, 2**10), "too many",
        ),
    ],
)  # fmt: skip
def test_other_tensors_are_refused(
    call: Callable[..., Any], arguments: list[Any], place: int, wrong: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(*arguments[:place], wrong, *arguments[place + 1 :])


if __name__ == "__main__":
    interpret(sys.argv[1])
