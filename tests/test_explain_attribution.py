"""Views of trained networks beside torch's gradients, closed forms and brute force; the pixels of the figures."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as tF
from torch import nn as tnn

matplotlib.use("Agg")

import tinyconv as tc
from tinyconv import Tensor, explain, models, nn
from tinyconv import functional as F

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((3, 2, 9, 11))


class Ours(nn.Module):
    """Half its ReLUs are modules, half functions; ends in a global mean and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act, self.pool = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.fc = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)
        self.unused = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(self.pool(self.act(self.conv1(x))))).mean((2, 3)))


class Theirs(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act, self.pool = tnn.Conv2d(2, 4, 3, padding=1), tnn.ReLU(), tnn.MaxPool2d(2)
        self.conv2, self.act2, self.fc = tnn.Conv2d(4, 5, 3), tnn.ReLU(), tnn.Linear(5, 3)
        self.unused = tnn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act2(self.conv2(self.pool(self.act(self.conv1(x))))).mean((2, 3)))


def pair() -> tuple[Ours, Theirs]:
    torch.manual_seed(0)
    ours, theirs = Ours().to("float64"), Theirs().double()
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    return ours, theirs


def torch_gradient(theirs: tnn.Module, classes: list[int]) -> Any:
    x = torch.tensor(X, requires_grad=True)
    theirs(x)[torch.arange(len(X)), classes].sum().backward()
    assert x.grad is not None
    return x.grad.numpy()


@pytest.mark.parametrize("target", [None, 1, [2, 0, 1]])
def test_saliency_is_torchs_gradient(target: Any) -> None:
    ours, theirs = pair()
    best = theirs(torch.tensor(X)).argmax(1).tolist()
    classes = best if target is None else [target] * 3 if isinstance(target, int) else target
    expected = np.abs(torch_gradient(theirs, classes)).max(1)
    np.testing.assert_allclose(explain.saliency(ours, X, target), expected, rtol=1e-10, atol=1e-14)
    assert all(p.grad is None for p in ours.parameters()) and ours.training


def test_the_saliency_of_a_linear_network_is_its_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2))
    weight = model[1].weight.data.reshape(2, 2, 3, 4)
    found = explain.saliency(model, RANDOM.standard_normal((1, 2, 3, 4), np.float32), 1)
    np.testing.assert_array_equal(found[0], np.abs(weight[1]).max(0))


def test_guided_backpropagation_is_that_of_hooks_in_torch() -> None:
    ours, theirs = pair()
    for module in (theirs.act, theirs.act2):
        module.register_full_backward_hook(lambda module, given, g: (given[0].clamp(min=0),))
    expected = torch_gradient(theirs, [1, 1, 1])
    found = explain.guided_backpropagation(ours, X, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    assert not np.allclose(np.abs(found).max(1), explain.saliency(ours, X, 1))
    with pytest.raises(ValueError, match="has no ReLU.*Use saliency"):
        explain.guided_backpropagation(nn.Sequential(nn.Flatten(), nn.Linear(198, 2)).to("float64"), X)


@pytest.mark.parametrize("layer", ["conv1", "act", "pool", "conv2"])
def test_grad_cam_is_that_of_hooks_in_torch(layer: str) -> None:
    ours, theirs = pair()
    seen: list[torch.Tensor] = []
    theirs.get_submodule(layer).register_forward_hook(lambda module, given, y: seen.append(y))
    y = theirs(torch.tensor(X))
    (slope,) = torch.autograd.grad(y[:, 2].sum(), seen[0])
    heat = (slope.mean((2, 3), keepdim=True) * seen[0]).sum(1, keepdim=True).relu()
    expected = tF.interpolate(heat, (9, 11), mode="bilinear", align_corners=False)[:, 0].detach().numpy()
    found = explain.grad_cam(ours, X, 2, layer=layer)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    assert found.max() > 0
    np.testing.assert_allclose(explain.feature_maps(ours, X, layer), seen[0].detach().numpy(), rtol=1e-10, atol=1e-14)


def test_grad_cam_before_a_mean_and_a_linear_layer_is_cam() -> None:
    """CAM is the sum of w_ck A_k (Zhou et al., 2016); Grad-CAM its positive part over the number of pixels."""
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).to("float64")
    maps, weight = body(Tensor(X)).data, model[3].weight.data
    cam = np.einsum("k,nkhw->nhw", weight[1], maps)
    found = explain.grad_cam(model, X, 1, layer="0")
    np.testing.assert_allclose(found, np.maximum(cam, 0) / 99, rtol=1e-10, atol=1e-14)


def test_maps_of_scores_count_as_their_sum_and_volumes_work() -> None:
    tc.manual_seed(0)
    model = models.unet3d(num_classes=3, base=2, levels=2, in_channels=1, padded=True)
    x = RANDOM.standard_normal((2, 1, 4, 4, 8), np.float32)
    heat = explain.grad_cam(model, x, 1, layer="down.1")
    assert heat.shape == (2, 4, 4, 8) and model.training
    linear = nn.Conv2d(2, 3, 1, bias=False).to("float64")
    found = explain.saliency(linear, X, 2)  # dS/dx is the weight at every pixel
    np.testing.assert_array_equal(found, np.full((3, 9, 11), np.abs(linear.weight.data[2]).max()))


@pytest.mark.parametrize(("size", "stride"), [(3, 1), ((4, 3), (3, 2)), (9, 4)])
def test_occlusion_is_brute_force(size: Any, stride: Any) -> None:
    ours, theirs = pair()
    (h, w), (sh, sw) = ((v, v) if isinstance(v, int) else v for v in (size, stride))
    falls: list[list[list[list[float]]]] = [[[[] for _ in range(11)] for _ in range(9)] for _ in X]
    for n, image in enumerate(torch.tensor(X)):
        before = theirs(image[None])[0, 1].item()
        for top in range(10 - h):
            for left in range(12 - w):
                if (top % sh and top != 9 - h) or (left % sw and left != 11 - w):
                    continue
                hidden = image.clone()
                hidden[:, top : top + h, left : left + w] = 0.5
                fall = before - theirs(hidden[None])[0, 1].item()
                for row in range(top, top + h):
                    for column in range(left, left + w):
                        falls[n][row][column].append(fall)
    expected = [[[np.mean(cell) for cell in row] for row in image] for image in falls]
    found = explain.occlusion(ours, X, 1, size=size, stride=stride, value=0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_wrong_calls_are_told_the_mend() -> None:
    ours, _ = pair()
    with pytest.raises(ValueError, match="Ours has no layer 'conv3'. Did you mean one of: .*conv2"):
        explain.grad_cam(ours, X, layer="conv3")
    with pytest.raises(ValueError, match=r"'fc' has shape \(3, 3\), without spatial axes.* maps is 'conv2'"):
        explain.grad_cam(ours, X, layer="fc")
    with pytest.raises(ValueError, match="'unused' is not called when Ours is evaluated"):
        explain.grad_cam(ours, X, layer="unused")
    with pytest.raises(ValueError, match="one of the classes 0 to 2, but is 3"):
        explain.saliency(ours, X, 3)
    with pytest.raises(ValueError, match="one for each of 3 images"):
        explain.saliency(ours, X, [0, 1])
    with pytest.raises(TypeError, match="x must be a float array"):
        explain.saliency(ours, X.astype(int))
    with pytest.raises(ValueError, match="with one to three spatial axes"):
        explain.saliency(ours, X[0, 0])
    with pytest.raises(ValueError, match="size must be at most the image's and stride at most size"):
        explain.occlusion(ours, X, size=3, stride=4)
    with pytest.raises(ValueError, match=r"class scores \(N, K\)"):
        explain.saliency(nn.Flatten(0), X)
    with pytest.raises(ValueError, match="'fc' is a Linear. Choose from: conv1, conv2, unused"):
        explain.plot_filters(ours, "fc")
    with pytest.raises(ValueError, match=r"x must be \(N, C, H, W\) and heat \(N, H, W\)"):
        explain.plot_heat(X, X)
    assert not any(module._hooks for module in ours.modules()) and ours.training


def test_the_figures_show_the_arrays() -> None:
    ours, theirs = pair()
    shown = [axes.images[0].get_array() for axes in explain.plot_feature_maps(ours, X, "conv1").axes]
    np.testing.assert_allclose(shown, theirs.conv1(torch.tensor(X))[0].detach().numpy(), rtol=1e-10, atol=1e-14)
    figure = explain.plot_filters(ours, "conv1")
    weight = theirs.conv1.weight.detach().numpy()
    for k, axes in enumerate(figure.axes):
        np.testing.assert_allclose(axes.images[0].get_array(), 0.5 + 0.5 * weight[k, 0] / np.abs(weight).max())
    assert figure.get_label().startswith("4 of 4 filters of conv1, channel 0 of 2: grey is 0")
    colour = explain.plot_filters(nn.Sequential(nn.Conv2d(3, 70, 5)), "0")
    assert len(colour.axes) == 64 and colour.axes[0].images[0].get_array().shape == (5, 5, 3)
    heat = np.zeros((3, 9, 11))
    heat[0, 4, 7] = 2.0
    figure = explain.plot_heat(X, heat, ["a", "b", "c"])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), X[0].mean(0))
    np.testing.assert_array_equal(figure.axes[1].images[1].get_array(), heat[0])
    assert "Hottest: a at row 4, column 7, b" in figure.get_label()
    matplotlib.pyplot.close("all")
