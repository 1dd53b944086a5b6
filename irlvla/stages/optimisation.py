"""What every training loop here shares: learning-rate schedule, averaged weights, optimizer state as tensors."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def warm_up_cosine(step: int, total_steps: int, warm_up_steps: int, floor: float = 0.02) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine down to `floor`.

    Args:
        step: Steps completed.
        total_steps: Length of the whole training.
        warm_up_steps: Steps until the factor reaches 1.
        floor: Factor at the end.
    Example:
        >>> [round(warm_up_cosine(step, 100, 10, floor=0.0), 3) for step in (0, 9, 55, 100)]
        [0.1, 1.0, 0.5, 0.0]
    """
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    done = (step - warm_up_steps) / max(1, total_steps - warm_up_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (biases, norms, queries' scales) are not decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments under "<parameter number>/<moment>"; learning rates come from config and step."""
    return {
        f"{number}/{moment}": torch.as_tensor(value)
        for number, moments in optimizer.state_dict()["state"].items()
        for moment, value in moments.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, moment = name.split("/")
        state.setdefault(int(number), {})[moment] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class WeightAverage:
    """Exponential moving average of a module's trainable weights.

    The decay is eased in as (1 + n) / (10 + n) over the first updates, so that a short run is not dominated by its
    initial weights.

    Args:
        module: Module to follow; its trainable parameters are copied.
        decay: Share of the old average kept at each update, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        named = [(n, p) for n, p in module.named_parameters() if n in self.average]
        torch._foreach_lerp_([self.average[n] for n, _ in named], [p.detach() for _, p in named], 1 - decay)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take up a stored average."""
        self.updates = updates
        for name, tensor in tensors.items():
            self.average[name].copy_(tensor)

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Inside the block the module carries the averaged weights."""
        live = {n: p.detach().clone() for n, p in module.named_parameters() if n in self.average}
        self._copy(self.average, module)
        try:
            yield
        finally:
            self._copy(live, module)

    @staticmethod
    @torch.no_grad()
    def _copy(tensors: Mapping[str, Tensor], module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])
