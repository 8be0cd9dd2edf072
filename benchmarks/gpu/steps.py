"""The steps of the two commands, in the order of what would be missed most, with their limits."""

from functools import partial

from benchmarks.gpu import fast, results, right
from benchmarks.gpu.runner import Step
from stages.lib.kernels import checks


def _captured(name: str) -> Step:
    return Step(f"captured {name}", partial(right.captured, name), 60, cuda_only=True)


def _speed(name: str, seconds: float) -> Step:
    return Step(f"steps {name}", partial(fast.steps, name), seconds)


DEVICE = Step("device", fast.device, 200, needed=True)
KERNELS = Step("kernels", fast.kernels, 45, cuda_only=True, guards=checks.VARIABLE)
CHECK = (
    DEVICE,
    KERNELS,
    Step("facts", fast.facts, 30),
    _captured("conv2"),
    Step("gradients", partial(right.gradients, ("perceptron", "mlp2", "conv2")), 60),
    _speed("conv4", 140),
    _speed("mlp2", 60),
    _speed("perceptron", 60),
    Step("halving", right.halving, 90, cuda_only=True),
    Step("resumed", right.resumed, 40),
    Step("shrinking", right.shrinking, 30),
    _captured("mlp2"),
    _captured("perceptron"),
    Step("optimizer", fast.optimizer, 20),
    Step("profile", fast.profile, 20),
    _speed("resnet20", 120),
    Step("layers", fast.single_layers, 90),
    Step("gradients resnet20", partial(right.gradients, ("resnet20",)), 60),
    _captured("resnet20"),
    Step("scripts", fast.scripts, 40),
)

RESULTS = (
    DEVICE,
    KERNELS,
    Step("data", results.data, 60, needed=True),
    Step("perceptron", partial(results.network, "perceptron"), 120, share=0.5),
    Step("conv4", partial(results.network, "conv4"), 240, share=0.55),
    Step("mlp2", partial(results.network, "mlp2"), 180, share=0.8),
    Step("others", results.others, 540, share=0.85),  # the last step must have its time
    Step("finished", results.finished, 60),
)
