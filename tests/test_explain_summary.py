"""The table of a network against published figures and counted products."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinyconv import Tensor, explain, nn
from tinyconv import functional as F
from tinyconv.models.lenet import LeNet5
from tinyconv.models.unet import UNet


def test_lenet_has_the_published_61_706_parameters() -> None:
    model = LeNet5()
    table = explain.summary(model, (1, 1, 28, 28))
    assert table.parameters == 61_706
    assert table.multiply_adds == 416_520
    assert [layer.name for layer in table.layers] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert [layer.parameters for layer in table.layers] == [156, 2_416, 48_120, 10_164, 850]
    assert [layer.field for layer in table.layers] == [(5, 5), (14, 14), (), (), ()]
    assert table.layers[0].output == (1, 6, 28, 28) and table.layers[0].memory == 6 * 28 * 28 * 4
    assert table.layers[0].settings == ("5", "1", "2", "1", "1")
    lines = str(table).splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "kernel"] and lines[-1].split()[:3] == ["sum", "61,706", "416,520"]
    assert all(p.grad is None for p in model.parameters()) and model.training and not model.conv1._hooks


def test_alexnets_convolutions_have_the_published_figures() -> None:
    pool = nn.MaxPool2d(3, 2)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), pool,
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool,
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), pool,
    )  # fmt: skip
    table = explain.summary(model, (1, 3, 224, 224))
    assert table.parameters == 2_469_696
    assert table.multiply_adds == 655_566_528
    assert table.layers[-1].output == (1, 256, 6, 6) and table.layers[-1].field == (195, 195)


def test_multiply_adds_are_the_products_that_a_trace_lists() -> None:
    layers = [
        (nn.Conv2d(4, 6, (3, 2), (2, 1), 1, 2, groups=2), (2, 4, 9, 8)),
        (nn.Conv1d(3, 3, 3, groups=3), (1, 3, 8)),
        (nn.ConvTranspose2d(4, 2, 3, 2, 1, 1), (1, 4, 3, 3)),
        (nn.Conv3d(1, 2, 2, padding="same"), (1, 1, 3, 3, 3)),
    ]
    for layer, shape in layers:
        (row,) = explain.summary(layer, shape).layers
        trace = explain.trace(layer, np.zeros(shape, np.float32))
        assert row.multiply_adds == len(trace.triples)
        assert row.output == trace.output
    assert explain.summary(layers[0][0], (2, 4, 9, 8)).layers[0].settings == ("3x2", "2x1", "1", "2", "2")


def test_the_field_of_a_unet_is_the_largest_region_with_a_gradient() -> None:
    """Behind a transposed convolution the region differs from unit to unit; torch's gradients say what each sees."""
    model = UNet(base=2, levels=3)
    table = explain.summary(model, (1, 1, 48, 48))
    fields = {layer.name: layer.field for layer in table.layers}
    assert fields["down.2.5"] == (32, 32)
    conv, up, pool = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2), torch.nn.functional.avg_pool2d

    def double(x: torch.Tensor) -> torch.Tensor:
        return torch.conv2d(torch.conv2d(x, conv, padding=1), conv, padding=1)

    def enlarge(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv_transpose2d(x, up, stride=2)

    x = torch.ones(1, 1, 96, 96, requires_grad=True)
    down0 = double(x)
    down1 = double(pool(down0, 2))
    up1 = enlarge(double(pool(down1, 2)))
    merge1 = double(up1 + down1)
    up0 = enlarge(merge1)
    head = double(up0 + down0)
    for name, y in {"up.1": up1, "merge.1.3": merge1, "up.0": up0, "merge.0.3": head, "head": head}.items():
        middle = y.shape[2] // 2
        widths = set()
        for unit in range(middle, middle + 4):
            (gradient,) = torch.autograd.grad(y[0, 0, middle, unit], x, retain_graph=True)
            widths.add(int(gradient[0, 0].any(0).sum()))
        assert fields[name] == (max(widths),) * 2, name
    assert table.parameters == sum(p.data.size for p in model.parameters())
    assert [layer.name for layer in table.layers].count("pool") == 2


def test_a_layer_that_is_shared_is_counted_once_and_modes_come_back() -> None:
    shared = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(shared, nn.Dropout(0.5), shared)
    model[1].eval()
    table = explain.summary(model, (1, 1, 5, 5))
    assert table.parameters == 10 and [layer.parameters for layer in table.layers] == [10, 0, 10]
    assert table.layers[-1].field == (5, 5)
    assert model.training and not model[1].training


class Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


def test_a_shape_that_does_not_fit_gets_the_operators_own_message_and_leaves_no_hook() -> None:
    model = Refusing()
    with pytest.raises(ValueError, match="conv2d: weight expects 2 input channels"):
        explain.summary(model, (1, 3, 8, 8))
    assert model.training and not model.conv._hooks
