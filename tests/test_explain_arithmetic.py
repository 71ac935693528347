"""Sizes, equivalent convolutions and the fifteen relationships against torch and counted windows."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from test_explain_trace import transposed
from tinyconv import Tensor, explain, nn
from tinyconv import functional as F
from tinyconv.geometry import PhasedField

COVERED = {1: 50, 2: 287, 6: 1148, 14: 1148, 15: 3064}  # settings with i <= 12, k <= 5, s <= 4, p <= 4, d <= 3


@pytest.mark.parametrize("relationship", explain.RELATIONSHIPS, ids=lambda r: f"R{r.number}")
def test_relationships_hold_for_counted_windows(relationship: explain.Relationship) -> None:
    covered = relationship.check()
    assert covered == COVERED.get(relationship.number, covered) and covered > 30


def test_the_relationships_are_the_fifteen_and_a_wrong_one_is_caught() -> None:
    assert [r.number for r in explain.RELATIONSHIPS] == list(range(1, 16))
    assert explain.RELATIONSHIPS[5].sizes(5, 3, 2, 1) == {"o": 3}
    assert explain.RELATIONSHIPS[13].sizes(6, 3, 2, 1) == {"a": 1, "k_t": 3, "s_t": 1, "p_t": 1, "o_t": 6}
    assert explain.RELATIONSHIPS[2].sizes(5, 3, 2, 1) is None
    for number, wrong in [
        (6, "o = (i + 2*p - k)//s"),
        (6, "o = -((k - i - 2*p)//s) + 1"),
        (14, "o_t = s*(i_t - 1) + k - 2*p; p_t = k - p - 1"),
    ]:
        false = explain.Relationship(number, "forgot something", "True", wrong, "")
        with pytest.raises(RuntimeError, match=f"R{number}: .* fails for i="):
            false.check()


def test_sizes_are_those_of_torch() -> None:
    x = torch.zeros(1, 1, 13, device="meta")
    w = torch.zeros(1, 1, 3, device="meta")
    for s, p, d in np.ndindex(4, 4, 4):
        s, d = s + 1, d + 1
        assert explain.output_size(13, 3, s, p, d) == TF.conv1d(x, w, None, s, p, d).shape[-1]
        for a in range(max(s, d)):
            made = TF.conv_transpose1d(x, w, None, s, p, a, 1, d)
            assert explain.transposed_output_size(13, 3, s, p, d, a) == made.shape[-1]
        for ceil_mode in (False, True):
            if p < 2:
                made = TF.max_pool1d(x, 3, s, p, d, ceil_mode)
                assert explain.pool_output_size(13, 3, s, p, d, ceil_mode) == made.shape[-1]
    assert explain.pool_output_size(13, 3) == 4
    assert explain.output_size(13, 4, p="same") == 13 == explain.output_size(13, 4, p=explain.same_padding(4))
    with pytest.raises(ValueError, match=r"output_size: the window spans \(9,\)"):
        explain.output_size(8, 3, d=4)


def test_solve_finds_all_settings_that_torch_agrees_with() -> None:
    found = explain.solve(i=28, o=14, k=3)
    assert found[0] == explain.Setting(s=2, p=1, d=1)
    x, w = torch.zeros(1, 1, 28, device="meta"), torch.zeros(1, 1, 3, device="meta")
    tried = [
        explain.Setting(s, p, d)
        for d in range(1, 14) for p in range(2 * d + 1) for s in range(1, 29)
        if TF.conv1d(x, w, None, s, p, d).shape[-1] == 14
    ]  # fmt: skip
    assert found == tried
    assert explain.solve(i=5, o=5, k=1) == [explain.Setting(1, 0, 1)]
    assert explain.solve(i=5, o=20, k=3) == []


@settings(max_examples=150)
@given(transposed())
def test_a_transposed_convolution_is_its_equivalent_direct_one(case: Any) -> None:
    name, x, w, _, options = case
    x = x.astype(float).reshape(-1, *x.shape[1 - w.ndim :])
    w = w.astype(float)
    e = explain.equivalent_convolution(x, w, **options)
    expected = getattr(TF, name)(torch.tensor(x), torch.tensor(w), None, **options).numpy()
    direct = getattr(F, name.replace("_transpose", ""))
    made = direct(e.input, e.weight, padding=e.padding, dilation=e.dilation, groups=e.groups)
    np.testing.assert_allclose(made.data, expected, rtol=1e-10, atol=1e-12)


def test_negative_padding_crops() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 1, 5)), rng.standard_normal((1, 1, 2))
    e = explain.equivalent_convolution(x, w, stride=2, padding=3)
    assert e.cropped == ((2, 2),) and e.padding == ((0, 0),) and e.zeros == (1,)
    expected = TF.conv_transpose1d(torch.tensor(x), torch.tensor(w), stride=2, padding=3).numpy()
    np.testing.assert_allclose(F.conv1d(e.input, e.weight).data, expected, rtol=1e-12)


def test_equivalent_convolution_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"equivalent_convolution: .*weight.shape=\(2, 1, 3\)"):
        explain.equivalent_convolution(np.ones((1, 3, 5)), np.ones((2, 1, 3)))


# --------------------------------------------------------------------------------------------------
# Receptive fields


def vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    for convolutions in (2, 2, 3, 3, 3):
        for _ in range(convolutions):
            layers += [nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def alexnet() -> nn.Sequential:
    pool = nn.MaxPool2d(3, 2)
    conv = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(1, 1, 11, 4), pool, nn.Conv2d(1, 1, 5, padding=2), pool, *conv, pool)


@pytest.mark.parametrize("model, published", [(vgg16(), (212, 32, 90)), (alexnet(), (195, 32, 64))])
def test_receptive_fields_of_networks_are_the_published_ones(
    model: nn.Sequential, published: tuple[int, int, int]
) -> None:
    field = explain.receptive_field(model, (1, 1, 256, 256))
    assert (field.size, field.stride, field.padding) == published


class Branches(nn.Module):
    """A residual block with a shortcut of another width, batch norm and a functional pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(
            nn.Conv2d(1, 1, (5, 3), padding=(2, 3), dilation=(1, 3)), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3, 2, 1)
        )
        self.short = nn.Conv2d(1, 1, 1, 2)

    def forward(self, x: Any) -> Any:
        return F.avg_pool2d(F.relu(self.long(x) + self.short(x)), 2)


@pytest.mark.parametrize("axis, size", [(0, 9), (1, 11)])
def test_the_field_of_branches_is_the_region_with_a_gradient(axis: int, size: int) -> None:
    model = Branches()
    field = explain.receptive_field(model, (1, 1, 32, 32), axis)
    assert all(module.training for module in model.modules())
    assert field.size == size
    model.eval()
    for parameter in model.parameters():
        parameter.data[...] = 1.0
    x = Tensor(np.ones((1, 1, 32, 32), np.float32), requires_grad=True)
    unit = (0, 0, 4, 4)
    model(x)[unit].backward()
    seen = np.flatnonzero(x.grad.data[0, 0].any(1 - axis))
    assert seen[0] == 4 * field.stride - field.padding and len(seen) == field.size
    assert (seen[0] + seen[-1]) / 2 == field.centre(4)


def test_fields_that_have_no_size_are_refused() -> None:
    assert explain.receptive_field([(3, 1, 1, 1)] * 3).size == 7
    with pytest.raises(ValueError, match="needs input_shape"):
        explain.receptive_field(vgg16())
    with pytest.raises(ValueError, match="Sequential does not end in windows"):
        explain.receptive_field(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(36, 2)), (1, 1, 8, 8))
    with pytest.raises(ValueError, match="Sequential does not end in windows"):
        explain.receptive_field(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Upsample(scale_factor=2)), (1, 1, 8, 8))
    with pytest.raises(ValueError, match="Strides does not end in windows"):
        explain.receptive_field(Strides(), (1, 1, 8))


class Strides(nn.Module):
    """Two branches that move on at different paces have no field of one size: it grows along the signal."""

    def forward(self, x: Any) -> Any:
        return F.avg_pool1d(x, 2) + F.avg_pool1d(x, 5, 1)


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, dict[str, int]]]:
    """Layers down and up again in any order, on one axis."""
    layers: list[tuple[str, dict[str, int]]] = []
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride, dilation = (draw(st.integers(1, most)) for most in (4, 3, 2))
        padding = draw(st.integers(0, (kernel - 1) * dilation))
        name = draw(st.sampled_from(["Conv1d", "ConvTranspose1d"]))
        layers.append((name, {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}))
    return layers


@given(chains())
def test_the_field_behind_transposed_layers_is_the_region_with_a_gradient(
    chain: list[tuple[str, dict[str, int]]],
) -> None:
    """Every unit, away from the ends of the signal: all weights are one, so what is seen has a gradient."""
    n = 96
    assume(np.prod([options["stride"] for name, options in chain if name == "Conv1d"]) <= 9)  # all phases are inside
    ours = nn.Sequential(*(getattr(nn, name)(1, 1, **options) for name, options in chain))
    field = explain.receptive_field(ours, (1, 1, n))
    assume(0 < field.size <= 24)
    theirs = torch.nn.Sequential(*(getattr(torch.nn, name)(1, 1, bias=False, **options) for name, options in chain))
    for parameter in theirs.parameters():
        torch.nn.init.ones_(parameter)
    x = torch.ones(1, 1, n, requires_grad=True)
    y = theirs(x)[0, 0]
    spans = {o: field.pixels(o) for o in range(len(y))}
    inside = [o for o, span in spans.items() if span is not None and 30 <= span[0] and span[1] < 66]
    sizes = []
    for o in range(inside[0], inside[-1] + 1):
        (gradient,) = torch.autograd.grad(y[o], x, retain_graph=True)
        seen = np.flatnonzero(gradient[0, 0].numpy()).tolist()
        assert spans[o] == ((seen[0], seen[-1]) if seen else None)
        if seen:
            assert field.centre(o) == (seen[0] + seen[-1]) / 2
            sizes.append(seen[-1] - seen[0] + 1)
    assert max(sizes) == field.size


def test_one_transposed_layer_sees_the_units_of_its_phase() -> None:
    """Closed form: ceil(k / s) units at most, floor(k / s) at least, a stride of 1 / s."""
    for k, s, p in itertools.product(range(1, 6), range(1, 4), range(3)):
        field = PhasedField().transposed(k, s, p, 1)
        assert field.stride == Fraction(1, s) and field.size == -(-k // s)
        counts = [0 if span is None else span[1] - span[0] + 1 for span in map(field.pixels, range(s))]
        assert min(counts) == k // s and sum(counts) == k
    up = explain.receptive_field(nn.Sequential(nn.Conv1d(1, 1, 2, 2), nn.ConvTranspose1d(1, 1, 2, 2)), (1, 1, 8))
    assert [up.pixels(o) for o in range(4)] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    assert up.size == 2 and up.stride == 1 and up.centre(3) == 2.5
    nothing = explain.receptive_field(nn.ConvTranspose1d(1, 1, 1, 2), (1, 1, 8))
    assert nothing.pixels(1) is None and np.isnan(nothing.centre(1)) and nothing.size == 1


def test_relationships_without_dilation_say_nothing_about_it() -> None:
    """torch makes 4 of these numbers, not the 5 that the undilated formula R6 would say."""
    made = torch.nn.functional.conv1d(torch.zeros(1, 1, 10), torch.zeros(1, 1, 3), stride=2, padding=1, dilation=2)
    said = {r.number: r.sizes(10, 3, 2, 1, d=2) for r in explain.RELATIONSHIPS}
    assert {number for number, sizes in said.items() if sizes is not None} == {15}
    assert said[15] == {"o": made.shape[-1]} == {"o": 4}
