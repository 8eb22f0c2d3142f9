"""The average of the weights equals its definition, and is swapped into the model and out again."""

import pytest
import torch
from torch import nn

from modeling_vit_custom.training.optimization.ema import WeightAverage


def test_the_average_is_that_of_its_definition():
    model = nn.Linear(3, 2)
    history = [model.weight.detach().clone()]
    average = WeightAverage(model, decay=0.9)
    expected = history[0].double()
    for step in range(40):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(average.average["weight"].double(), expected, rtol=0, atol=1e-6)


def test_the_average_is_swapped_in_and_out_even_after_an_error():
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average.update()
    own, averaged = model.weight.detach().clone(), average.average["weight"].clone()
    parameter = model.weight
    with pytest.raises(RuntimeError, match="inside"), average.in_place():
        assert model.weight is parameter and torch.equal(model.weight, averaged)
        raise RuntimeError("inside")
    assert torch.equal(model.weight, own) and torch.equal(average.average["weight"], averaged)


def test_frozen_parameters_are_left_alone():
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = WeightAverage(model, decay=0.5)
    assert set(average.average) == {"weight"}
