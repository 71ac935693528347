"""Transfer learning against the same in torch, or a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinyconv as tc
from test_models import MINIATURES
from tinyconv import models, nn, optim, transfer
from tinyconv.models.lenet1998 import RBF
from torchvision_oracle import torchvision_models

CLASSIFIERS = [name for name, (options, _) in MINIATURES.items() if "num_classes" in options]


def twins() -> tuple[nn.Sequential, torch.nn.Sequential]:
    """The same small network here and in torch, in float64: a body with batch norm, and a head."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Flatten())
    theirs = torch.nn.Sequential(body, torch.nn.Linear(12, 2)).double()
    ours = nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten()), nn.Linear(12, 2)
    )
    ours.to(np.float64).load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    return ours, theirs


def train_both(ours: nn.Module, theirs: torch.nn.Module, our_sgd: optim.SGD, their_sgd: torch.optim.SGD) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = rng.normal(size=(4, 2, 4, 4))
        our_sgd.zero_grad()
        their_sgd.zero_grad()
        (ours(tc.tensor(x)) ** 2).sum().backward()
        (theirs(torch.tensor(x)) ** 2).sum().backward()
        our_sgd.step()
        their_sgd.step()
    for name, t in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name].data, t.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_frozen_body_trains_as_in_torch() -> None:
    ours, theirs = twins()
    for p in theirs[0].parameters():
        p.requires_grad = False
    theirs.train()
    theirs[0][1].eval()
    before = {name: t.data.copy() for name, t in ours[0].state_dict().items()}
    ours(tc.tensor(np.ones((1, 2, 4, 4)))).sum().backward() if ours.eval() else None  # gradients from before
    assert transfer.freeze(ours[0]) is ours[0]
    ours.train()
    assert ours.training and ours[0].training and not ours[0][1].training
    train_both(
        ours,
        theirs,
        optim.SGD(ours.parameters(), lr=0.01, momentum=0.9),
        torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9),
    )
    for name, t in ours[0].state_dict().items():
        assert np.array_equal(t.data, before[name]), name


def test_unfrozen_it_trains_again_as_in_torch() -> None:
    ours, theirs = twins()
    transfer.unfreeze(transfer.freeze(ours))
    assert all(m.training for m in ours.modules()) and all(p.requires_grad for p in ours.parameters())
    train_both(ours, theirs, optim.SGD(ours.parameters(), lr=0.01), torch.optim.SGD(theirs.parameters(), lr=0.01))
    transfer.unfreeze(transfer.freeze(ours).eval())
    assert not any(m.training for m in ours.modules())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_new_head_of_every_network(name: str) -> None:
    """Its shape and its number of parameters; all else is the same object."""
    options, shape = MINIATURES[name]
    model = models.create(name, **options).to(np.float64)
    before = dict(model.named_parameters())
    assert transfer.replace_head(transfer.freeze(model), 5) is model
    new = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(new) == {n for n, p in model.named_parameters() if p is not before[n]}
    for n, p in new.items():
        assert p.shape == (5, *before[n].shape[1:]) and p.dtype == np.float64
    assert len(new) == (6 if name.startswith("googlenet") else 2)
    assert model.eval()(tc.tensor(np.ones(shape))).shape[1] == 5
    assert sum(len(g["params"]) for g in transfer.param_groups(model, 0.1, 1.0)) == len(new)


def test_the_fixed_codes_of_1998_become_a_linear_layer() -> None:
    model = transfer.replace_head(models.lenet1998(), 3)
    assert not any(isinstance(m, RBF) for m in model.modules())
    assert model(tc.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_wrong_heads_and_layers_are_named() -> None:
    with pytest.raises(ValueError, match="a Sequential makes its scores"):
        transfer.replace_head(nn.Sequential(nn.Linear(2, 2)), 3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, but is 0"):
        transfer.replace_head(models.lenet5(), 0)
    with pytest.raises(ValueError, match="no layer 'layer5'.*layer"):
        transfer.features(models.resnet18(width=2), "layer5")
    with pytest.raises(ValueError, match="did not call 'aux1'"):
        model = models.googlenet(width=1 / 16).eval()
        transfer.features(model, "aux1")(tc.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="every parameter of this LeNet5 is frozen"):
        transfer.param_groups(transfer.freeze(models.lenet5()), 0.1, 1.0)


def test_body_and_head_have_steps_of_their_own() -> None:
    """One step of plain SGD on a gradient of ones takes lr from every weight."""
    model = models.create("resnet18", num_classes=3, width=2)
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    sgd = optim.SGD(transfer.param_groups(model, 0.125, 0.5), lr=9.0)
    for p in model.parameters():
        p.grad = tc.ones(*p.shape)
    sgd.step()
    for name, p in model.named_parameters():
        lr = np.float32(0.5 if name.startswith("fc.") else 0.125)
        np.testing.assert_array_equal(p.data, before[name] - lr, err_msg=name)


@pytest.mark.parametrize("layer", ["conv1", "layer1.0.conv1", "layer3", "avgpool"])
def test_features_are_those_of_torch(layer: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision_models().resnet18().double().eval()
    ours = models.resnet18().to(np.float64).eval()
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(1, 3, 32, 32))
    seen: list[torch.Tensor] = []
    theirs.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    theirs(torch.tensor(x))
    extract = transfer.features(ours, layer)
    for _ in range(2):
        np.testing.assert_allclose(extract(tc.tensor(x)).data, seen[0].detach().numpy(), rtol=1e-8, atol=1e-10)
    assert ours(tc.tensor(x)).shape == (1, 1000)  # no hook is left


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("similar", [True, False])
def test_the_rule_of_thumb_is_what_least_squares_does(few: bool, similar: bool) -> None:
    """Where features are given, and training is least squares, the error is known: the rule names the smallest.

    p normal features, of which a part of variance m is no use for the target, noise of variance 1, n images: the mean
    squared error above the noise is m + (1 + m) p / (n - p - 1). Late features are few, and miss little if the tasks
    are similar and much if not; early ones are more, and miss some in either case; all weights miss nothing.
    """

    def error(features: int, missed: float, images: int) -> float:
        return missed + (1 + missed) * features / (images - features - 1)

    images = 120 if few else 10_000
    errors = {
        "head": error(10, 0.05 if similar else 2.0, images),
        "head on earlier features": error(20, 0.3, images),
        "all": error(100, 0.0, images),
    }
    assert transfer.strategy(few, similar).train == min(errors, key=errors.__getitem__)
