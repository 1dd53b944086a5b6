import torch
from torch import nn

from irlvla.stages.optimisation import (
    WeightAverage,
    adamw,
    load_optimizer,
    optimizer_tensors,
    set_learning_rate,
    warm_up_cosine,
)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        set_learning_rate(optimizer, 0.1 * warm_up_cosine(step, 20, 5))
        optimizer.zero_grad()
        module(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()


def test_learning_rate_never_rises_after_warm_up() -> None:
    factors = [warm_up_cosine(step, 50, 10) for step in range(51)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.03


def test_optimizer_restored_from_tensors_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    optimizer = adamw(module, 0.1, 0.01)
    train(module, optimizer, range(7))
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    moments = {k: v.clone() for k, v in optimizer_tensors(optimizer).items()}
    train(module, optimizer, range(7, 12))

    other = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    other.load_state_dict(weights)
    restored = adamw(other, 0.1, 0.01)
    load_optimizer(restored, moments)
    train(other, restored, range(7, 12))
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_vectors_are_not_decayed() -> None:
    decay = {p.ndim: g["weight_decay"] for g in adamw(nn.Linear(3, 5), 0.1, 0.01).param_groups for p in g["params"]}
    assert decay == {2: 0.01, 1: 0.0}


def test_average_follows_the_weights_and_leaves_the_live_ones_alone() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 0.0)
    average = WeightAverage(module, decay=0.5)
    nn.init.constant_(module.weight, 1.0)
    average.update(module)
    # First update: decay eased in to 2 / 11.
    torch.testing.assert_close(average.average["weight"], torch.full((1, 1), 9 / 11))
    for _ in range(20):
        average.update(module)
    assert average.average["weight"].item() > 0.999
    nn.init.constant_(module.weight, 5.0)
    with average.applied_to(module):
        assert module.weight.item() < 1.001
    assert module.weight.item() == 5.0
