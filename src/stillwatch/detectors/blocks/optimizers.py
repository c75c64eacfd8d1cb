"""The optimisers Muon, which needs fewer steps than Adam for normalised layers, and StableAdamW."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_ADAM_BETAS = (0.9, 0.99)
_ADAM_SHARE = 0.25
_STABLE_BETAS = (0.9, 0.999)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for kernels, Adam for vectors.

    Jordan and others, "Muon: an optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon. Our own: a step is ``lr`` times the kernel's norm, since a
    normalisation (or the cosine of the loss) makes the scale of a kernel meaningless; vectors
    (biases, normalisation weights) take Adam's steps at a quarter of ``lr``.

    Args:
        params: to be trained.
        lr: length of a step relative to the norm of the kernel.
        momentum: decay of the gradient's moving average, used in Nesterov's form.
    """

    def __init__(self, params: ParamsT, lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    step = _kernel_step if parameter.ndim > 1 else _vector_step
                    step(parameter, parameter.grad, self.state[parameter], group)


class StableAdamW(torch.optim.Optimizer):
    """AdamW with AMSGrad and limited steps.

    Wortsman and others, "Stable and low-precision training for large-scale vision-language models",
    NeurIPS 2023, arXiv 2304.13013, algorithm 2, in the form of Dinomaly's authors: with g the
    gradients, all of them together no longer than ``longest_gradient``, m and v the moving averages
    of g and g^2, corrected for their start, and u the largest v so far,

        w <- w - lr * decay * w - lr / max(1, rms(g / (sqrt(u) + eps))) * m / (sqrt(u) + eps)

    Args:
        params: to be trained.
        lr: learning rate.
        eps: added to the root of u.
        weight_decay: relative to ``lr``.
        longest_gradient: Euclidean norm of all gradients together, at most.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        eps: float = 1e-8,
        weight_decay: float = 1e-4,
        longest_gradient: float = 0.1,
    ) -> None:
        defaults = {"lr": lr, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self._longest_gradient = longest_gradient

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients, which are shortened in place."""
        parameters = [one for group in self.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self._longest_gradient)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _stable_step(parameter, parameter.grad, self.state[parameter], group)


def optimizer_of(
    name: Literal["muon", "adam", "sgd"], rate: float, **of_adam: Any
) -> Callable[[ParamsT], torch.optim.Optimizer]:
    """Return a function that makes the optimiser.

    Args:
        name: sgd has the momentum and decay of the authors of STFPM and DeSTSeg.
        rate: learning rate.
        of_adam: other arguments of Adam.
    """
    if name == "muon":
        return partial(Muon, lr=rate)
    if name == "sgd":
        return partial(torch.optim.SGD, lr=rate, momentum=0.9, weight_decay=1e-4)
    return partial(torch.optim.Adam, lr=rate, **of_adam)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor of a matrix's polar decomposition (singular values near 1).

    Newton-Schulz iterations with a quintic polynomial. They run on the smaller Gram matrix, so that
    a long matrix is multiplied twice and not in every iteration.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    total = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        factor = b * gram + c * (gram @ gram)
        factor.diagonal().add_(a)
        total = factor @ total
        gram = factor @ gram @ factor
    result: Tensor = total @ wide
    return result.T if tall else result


def _kernel_step(
    kernel: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(kernel)
    state["momentum"].lerp_(gradient, 1 - group["momentum"])
    direction = gradient.lerp(state["momentum"], group["momentum"])
    update = orthogonalised(direction.flatten(1)).reshape(direction.shape)
    kernel.sub_(update * (group["lr"] * kernel.norm() / (update.norm() + 1e-8)))


def _vector_step(
    vector: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    if not state:
        state["mean"] = torch.zeros_like(vector)
        state["square"] = torch.zeros_like(vector)
        state["step"] = torch.zeros(())
    state["step"] += 1
    mean_decay, square_decay = _ADAM_BETAS
    state["mean"].lerp_(gradient, 1 - mean_decay)
    state["square"].lerp_(gradient.square(), 1 - square_decay)
    mean = state["mean"] / (1 - mean_decay ** state["step"])
    square = state["square"] / (1 - square_decay ** state["step"])
    vector.sub_(_ADAM_SHARE * group["lr"] * mean / (square.sqrt() + 1e-8))


def _stable_step(
    weights: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    if not state:
        state["mean"], state["square"], state["largest"] = (
            torch.zeros_like(weights) for _ in range(3)
        )
        state["step"] = torch.zeros(())
    state["step"] += 1
    mean_decay, square_decay = _STABLE_BETAS
    state["mean"].lerp_(gradient, 1 - mean_decay)
    state["square"].lerp_(gradient.square(), 1 - square_decay)
    torch.maximum(state["largest"], state["square"], out=state["largest"])
    corrections = [1 - decay ** float(state["step"]) for decay in _STABLE_BETAS]
    divisor = (state["largest"] / corrections[1]).sqrt() + group["eps"]
    too_long = (gradient / divisor).square().mean().sqrt().clamp_min(1)
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    weights.sub_(group["lr"] / corrections[0] / too_long * state["mean"] / divisor)
