"""Muon for the matrices, Adam for all else; the learning rate follows the clock."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MATRICES = ("q", "k", "v", "out", "gate_up", "down")


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest matrices with orthonormal rows or columns, roughly; [..., m, n].

    Five Newton-Schulz steps in bfloat16 with the quintic of Muon
    (https://kellerjordan.github.io/posts/muon).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, then the orthogonalised direction, for stacked matrices [..., m, n]."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float, decay: float) -> None:
        self.parameters, self.momentum, self.decay = parameters, momentum, decay
        self.buffers = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for parameter, buffer in zip(self.parameters, self.buffers, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            buffer.lerp_(gradient, 1 - self.momentum)
            direction = orthogonalise(gradient.lerp(buffer, self.momentum))
            m, n = parameter.shape[-2:]
            parameter.mul_(1 - rate * self.decay)
            parameter.add_(direction, alpha=-rate * max(1.0, m / n) ** 0.5)


class DemoOptimizer:
    """Both optimizers of a `DemoNetwork`."""

    def __init__(self, network: nn.Module, *, muon_rate: float, adam_rate: float) -> None:
        named = dict(network.named_parameters())
        self.muon_rate, self.adam_rate = muon_rate, adam_rate
        self.muon = Muon([named[name] for name in MATRICES], momentum=0.95, decay=0.1)
        rest = [p for name, p in named.items() if name not in MATRICES]
        fused = rest[0].is_cuda
        self.adam = torch.optim.AdamW(
            rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=fused
        )

    def step(self, share: float) -> None:
        """One step at this share of the full learning rate."""
        self.muon.step(self.muon_rate * share)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * share
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for parameter in self.muon.parameters:
            parameter.grad = None

    def state(self) -> dict[str, object]:
        return {"muon": self.muon.buffers, "adam": self.adam.state_dict()}

    def load(self, state: dict[str, object]) -> None:
        for buffer, saved in zip(self.muon.buffers, state["muon"], strict=True):
            buffer.copy_(saved)
        self.adam.load_state_dict(state["adam"])


def rate_share(progress: float, step: int) -> float:
    """Warm-up over 100 steps, full rate to 30 % of the time, then linear to 1 %."""
    falling = 1.0 if progress < 0.3 else max(0.01, (1 - progress) / 0.7)
    return min(1.0, (step + 1) / 100) * falling
