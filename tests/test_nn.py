"""Modules: registration, state, hooks, and every layer against torch's layer with the same state."""

from __future__ import annotations

import copy
import gc
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as tnn

import tinyconv
from tinyconv import Tensor, nn
from tinyconv import functional as F
from tinyconv.nn import init

# --------------------------------------------------------------------------------------------------
# Every layer beside torch's: name, arguments, shape of the input (several inputs: a list of shapes)

LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = [
    ("Identity", (), {}, (2, 3)),
    ("Linear", (5, 4), {}, (3, 2, 5)),
    ("Linear", (5, 4), {"bias": False}, (5,)),
    ("Bilinear", (3, 4, 5), {}, [(2, 3), (2, 4)]),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 9)),
    ("Conv2d", (4, 6, (3, 2)), {"padding": (1, 0), "dilation": 2}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, 3), {"padding": "same", "bias": False}, (4, 7, 6)),
    ("Conv3d", (2, 3, 2), {}, (2, 2, 4, 3, 5)),
    *[
        ("Conv2d", (2, 3, (4, 3)), {"padding": padding, "padding_mode": mode}, (2, 2, 6, 7))
        for mode in ("reflect", "replicate", "circular")
        for padding in (2, (1, 2), "same")
    ],
    ("Conv1d", (2, 3, 3), {"padding": 1, "padding_mode": "circular", "stride": 2}, (2, 5)),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "groups": 2}, (2, 4, 5)),
    ("ConvTranspose2d", (4, 6, 3, 2, 1, 1), {"dilation": 2}, (2, 4, 5, 4)),
    ("ConvTranspose3d", (2, 3, 2), {"stride": 2, "bias": False}, (2, 2, 3, 2, 3)),
    ("MaxPool1d", (2,), {}, (2, 3, 8)),
    ("MaxPool2d", (3, 2), {"padding": 1, "ceil_mode": True}, (2, 3, 8, 7)),
    ("MaxPool3d", (2,), {"dilation": 2}, (2, 3, 6, 5, 4)),
    ("AvgPool1d", (3, 2, 1), {"count_include_pad": False}, (2, 3, 8)),
    ("AvgPool2d", ((2, 3),), {"divisor_override": 4}, (2, 3, 8, 7)),
    ("AvgPool3d", (2,), {}, (2, 3, 6, 5, 4)),
    ("LPPool1d", (2.0, 3), {}, (2, 3, 8)),
    ("LPPool2d", (3.0, 2), {"stride": 1}, (2, 3, 5, 4)),
    ("LPPool3d", (2.0, 2), {}, (2, 3, 4, 4, 4)),
    ("AdaptiveAvgPool1d", (3,), {}, (2, 3, 8)),
    ("AdaptiveAvgPool2d", ((None, 2),), {}, (2, 3, 5, 7)),
    ("AdaptiveAvgPool3d", (2,), {}, (2, 3, 5, 4, 3)),
    ("AdaptiveMaxPool1d", (3,), {}, (2, 3, 8)),
    ("AdaptiveMaxPool2d", ((3, 2),), {}, (2, 3, 5, 7)),
    ("AdaptiveMaxPool3d", (2,), {}, (2, 3, 5, 4, 3)),
    ("BatchNorm1d", (3,), {"momentum": None}, (4, 3)),
    ("BatchNorm1d", (3,), {"affine": False}, (4, 3, 5)),
    ("BatchNorm2d", (3,), {"eps": 0.1, "momentum": 0.3}, (4, 3, 5, 2)),
    ("BatchNorm3d", (3,), {"track_running_stats": False}, (2, 3, 2, 3, 2)),
    ("InstanceNorm1d", (3,), {}, (3, 7)),
    ("InstanceNorm2d", (3,), {"affine": True, "track_running_stats": True}, (2, 3, 4, 5)),
    ("InstanceNorm3d", (3,), {"affine": True}, (2, 3, 2, 4, 5)),
    ("GroupNorm", (2, 6), {}, (3, 6, 4)),
    ("GroupNorm", (3, 6), {"affine": False}, (3, 6, 2, 2)),
    ("LayerNorm", ((4, 5),), {}, (3, 4, 5)),
    ("LayerNorm", (5,), {"bias": False}, (3, 5)),
    ("LocalResponseNorm", (3,), {"alpha": 0.5, "k": 2.0}, (2, 5, 4)),
    ("ReLU", (), {}, (3, 4)),
    ("ReLU6", (), {}, (3, 4)),
    ("LeakyReLU", (0.2,), {}, (3, 4)),
    ("ELU", (0.7,), {}, (3, 4)),
    ("CELU", (0.5,), {}, (3, 4)),
    ("SELU", (), {}, (3, 4)),
    ("GELU", (), {}, (3, 4)),
    ("GELU", ("tanh",), {}, (3, 4)),
    ("SiLU", (), {}, (3, 4)),
    ("Mish", (), {}, (3, 4)),
    ("Hardtanh", (-0.5, 0.7), {}, (3, 4)),
    ("Hardswish", (), {}, (3, 4)),
    ("Softplus", (2.0,), {}, (3, 4)),
    ("Softsign", (), {}, (3, 4)),
    ("Sigmoid", (), {}, (3, 4)),
    ("LogSigmoid", (), {}, (3, 4)),
    ("Tanh", (), {}, (3, 4)),
    ("Tanhshrink", (), {}, (3, 4)),
    ("Threshold", (0.1, -2.0), {}, (3, 4)),
    ("Softmax", (1,), {}, (3, 4)),
    ("LogSoftmax", (0,), {}, (3, 4)),
    ("Softmin", (-1,), {}, (3, 4)),
    ("GLU", (0,), {}, (4, 3)),
    ("PReLU", (), {}, (3, 4)),
    ("PReLU", (4,), {"init": 0.1}, (3, 4, 2)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Unflatten", (1, (2, -1)), {}, (2, 6, 4)),
    ("Unfold", (2,), {"stride": 2}, (2, 3, 5, 4)),
    ("Fold", ((4, 5), 2), {}, (2, 8, 12)),
    ("PixelShuffle", (2,), {}, (2, 8, 3, 2)),
    ("PixelUnshuffle", (2,), {}, (2, 2, 4, 6)),
    ("ChannelShuffle", (2,), {}, (2, 4, 3, 3)),
    ("Upsample", (), {"scale_factor": 2.0}, (2, 3, 4)),
    ("Upsample", ((5, 7),), {"mode": "bilinear", "align_corners": False}, (2, 3, 4, 3)),
    ("UpsamplingNearest2d", (), {"scale_factor": 2.0}, (2, 3, 4, 3)),
    ("UpsamplingBilinear2d", (), {"size": (5, 4)}, (2, 3, 4, 3)),
    ("ZeroPad1d", (2,), {}, (2, 3, 4)),
    ("ZeroPad2d", ((1, 2, 0, 1),), {}, (2, 3, 4, 5)),
    ("ZeroPad3d", (1,), {}, (2, 3, 4, 2, 2)),
    ("ConstantPad1d", ((1, 0), 3.0), {}, (2, 3, 4)),
    ("ConstantPad2d", (1, -1.5), {}, (2, 3, 4, 5)),
    ("ConstantPad3d", (1, 0.5), {}, (2, 3, 4, 2, 2)),
    ("ReflectionPad1d", ((1, 2),), {}, (2, 3, 4)),
    ("ReflectionPad2d", (2,), {}, (2, 3, 4, 5)),
    ("ReflectionPad3d", (1,), {}, (2, 3, 4, 2, 2)),
    ("ReplicationPad1d", (3,), {}, (2, 3, 4)),
    ("ReplicationPad2d", ((1, 2, 3, 4),), {}, (2, 3, 4, 5)),
    ("ReplicationPad3d", (1,), {}, (2, 3, 4, 2, 2)),
    ("CircularPad1d", (2,), {}, (2, 3, 4)),
    ("CircularPad2d", ((1, 2, 3, 4),), {}, (2, 3, 4, 5)),
    ("CircularPad3d", (1,), {}, (2, 3, 4, 2, 2)),
    ("MSELoss", (), {"reduction": "sum"}, [(3, 4), (3, 4)]),
    ("L1Loss", (), {}, [(3, 4), (3, 4)]),
    ("SmoothL1Loss", (), {"beta": 0.3}, [(3, 4), (3, 4)]),
    ("HuberLoss", ("none", 0.3), {}, [(3, 4), (3, 4)]),
    ("KLDivLoss", (), {"reduction": "batchmean", "log_target": True}, [(3, 4), (3, 4)]),
    ("BCEWithLogitsLoss", (), {"reduction": "none"}, [(3, 4), (3, 4)]),
    ("CrossEntropyLoss", (), {"label_smoothing": 0.1}, [(3, 4), (3, 4)]),
    ("CosineSimilarity", (0,), {}, [(3, 4), (3, 4)]),
    ("Dropout", (0.0,), {}, (3, 4)),
    ("Dropout1d", (0.0,), {}, (3, 4, 2)),
    ("Dropout2d", (0.0,), {}, (3, 4, 2, 2)),
    ("Dropout3d", (0.0,), {}, (3, 4, 2, 2, 2)),
    ("AlphaDropout", (0.0,), {}, (3, 4)),
    ("FeatureAlphaDropout", (0.0,), {}, (3, 4, 2)),
]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(
    ("name", "args", "options", "shapes"), LAYERS, ids=[f"{i}-{c[0]}" for i, c in enumerate(LAYERS)]
)
def test_layer_as_torch(name: str, args: Any, options: Any, shapes: Any, mode: str) -> None:
    ours, theirs = getattr(nn, name)(*args, **options), getattr(tnn, name)(*args, **options)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    ours.load_state_dict({n: t.numpy() for n, t in state.items()})
    ours, theirs = ours.to("float64"), theirs.double()
    getattr(ours, mode)()
    getattr(theirs, mode)()
    rng = np.random.default_rng(0)
    for _ in range(2):  # the second time with running statistics of the first
        arrays = [rng.standard_normal(s) for s in (shapes if isinstance(shapes, list) else [shapes])]
        a, b = [Tensor(x, requires_grad=True) for x in arrays], [torch.tensor(x, requires_grad=True) for x in arrays]
        y, z = ours(*a), theirs(*b)
        np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-9, atol=1e-12)
        v = rng.standard_normal(y.shape)
        y.backward(Tensor(v))
        z.backward(torch.tensor(v))
    for p, q in zip([*ours.parameters(), *a], [*theirs.parameters(), *b]):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-9, atol=1e-12)
    for (n, t), u in zip(ours.state_dict().items(), theirs.state_dict().values()):
        np.testing.assert_allclose(t.data, u.numpy(), rtol=1e-9, err_msg=n)
        assert t.dtype == u.numpy().dtype
    assert repr(ours).startswith(name)


def test_pool_and_unpool() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6))
    y, where = nn.MaxPool2d(2, return_indices=True)(Tensor(x))
    z, there = tnn.MaxPool2d(2, return_indices=True)(torch.tensor(x))
    found, expected = nn.MaxUnpool2d(2)(y, where, (7, 6)), tnn.MaxUnpool2d(2)(z, there, (7, 6))
    np.testing.assert_array_equal(found.data, expected.numpy())


@pytest.mark.parametrize("padding", [0, (1, 0)])
def test_transposed_convolution_of_a_given_size(padding: Any) -> None:
    ours = nn.ConvTranspose2d(2, 3, 3, stride=(3, 2), padding=padding)
    theirs = tnn.ConvTranspose2d(2, 3, 3, stride=(3, 2), padding=padding)
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype(np.float32)
    least = ours(Tensor(x)).shape[2:]
    size = (least[0] + 2, least[1] + 1)
    expected = theirs(torch.tensor(x), output_size=size).detach().numpy()
    np.testing.assert_allclose(ours(Tensor(x), output_size=size).data, expected, atol=1e-6)
    with pytest.raises(ValueError, match="output_size must lie between"):
        ours(Tensor(x), output_size=(least[0] + 3, least[1]))


@pytest.mark.parametrize("options", [{}, {"reduction": "none", "ignore_index": 1}])
def test_classification_losses(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x, t, w = rng.standard_normal((2, 4, 3)), rng.integers(0, 4, (2, 3)), rng.uniform(1, 2, 4)
    for name in ("CrossEntropyLoss", "NLLLoss"):
        found = getattr(nn, name)(Tensor(w), **options)(Tensor(x), Tensor(t))
        expected = getattr(tnn, name)(torch.tensor(w), **options)(torch.tensor(x), torch.tensor(t))
        np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-12)
    p, y = rng.uniform(size=(3, 2)), rng.uniform(size=(3, 2))
    found = nn.BCELoss(Tensor(p))(Tensor(p), Tensor(y))
    np.testing.assert_allclose(found.data, tnn.BCELoss(torch.tensor(p))(torch.tensor(p), torch.tensor(y)).numpy())
    found = nn.BCEWithLogitsLoss(pos_weight=Tensor(p))(Tensor(p), Tensor(y))
    expected = tnn.BCEWithLogitsLoss(pos_weight=torch.tensor(p))(torch.tensor(p), torch.tensor(y))
    np.testing.assert_allclose(found.data, expected.numpy())
    a, b, sign = rng.standard_normal((4, 3)), rng.standard_normal((4, 3)), np.array([1, -1, 1, -1])
    found = nn.CosineEmbeddingLoss(0.2)(Tensor(a), Tensor(b), Tensor(sign))
    expected = tnn.CosineEmbeddingLoss(0.2)(torch.tensor(a), torch.tensor(b), torch.tensor(sign))
    np.testing.assert_allclose(found.data, expected.numpy())
    dice = nn.DiceLoss(background=False)(F.softmax(Tensor(x), 1), Tensor(t))
    np.testing.assert_allclose(dice.data, F.dice_loss(F.softmax(Tensor(x), 1), Tensor(t), background=False).data)


def test_dropout_listens_to_the_mode() -> None:
    x = Tensor(np.ones((50, 50)))
    layer = nn.Dropout(0.5)
    assert (layer(x).data == 0).any()
    assert layer.eval()(x) is x


# --------------------------------------------------------------------------------------------------
# Module


class Block(nn.Module):
    def __init__(self, shared: nn.Module | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.register_parameter("shift", None)
        self.register_buffer("count", Tensor(np.zeros(())))
        self.register_buffer("scratch", Tensor(np.zeros(3)), persistent=False)
        self.first = nn.Linear(2, 2)
        self.second = self.first if shared is None else shared
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 1))])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](self.second(self.first(x)) * self.scale))


def test_names_and_walks() -> None:
    block = Block()
    names = [
        "scale", "first.weight", "first.bias", "layers.0.weight", "layers.0.bias", "layers.1.1.weight",
        "layers.1.1.bias",
    ]  # fmt: skip
    assert [n for n, _ in block.named_parameters()] == names  # the shared layer once
    assert [n for n, _ in block.named_buffers()] == ["count", "scratch"]
    assert list(block.state_dict()) == [*names[:1], "count", *names[1:3], "second.weight", "second.bias", *names[3:]]
    assert [n for n, _ in block.named_modules()] == [
        "",
        "first",
        "layers",
        "layers.0",
        "layers.1",
        "layers.1.0",
        "layers.1.1",
    ]
    assert [n for n, _ in block.named_children()] == ["first", "layers"]
    assert [n for n, _ in block.named_parameters(recurse=False)] == ["scale"]
    assert block.get_submodule("layers.1.1") is block.layers[1][1]
    with pytest.raises(AttributeError, match=r"layers\.7"):
        block.get_submodule("layers.7")
    assert "first" in dir(block)


def test_attributes() -> None:
    block = Block()
    with pytest.raises(TypeError, match="Parameter or None"):
        block.scale = Tensor(np.ones(2))
    with pytest.raises(TypeError, match="Module or None"):
        block.first = 3
    block.count = Tensor(np.ones(()))
    assert float(block.state_dict()["count"].data) == 1
    block.shift = nn.Parameter(np.zeros(2))
    assert "shift" in dict(block.named_parameters())
    block.shift = None
    assert "shift" not in dict(block.named_parameters())
    block.plain = 3
    block.plain = nn.ReLU()
    assert "plain" not in block.__dict__ and isinstance(block.plain, nn.ReLU)
    del block.first
    with pytest.raises(AttributeError, match="first"):
        _ = block.first

    class Forgot(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match="super"):
        Forgot()
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Module()(1)
    for call in (nn.Module().register_buffer, nn.Module().register_parameter, nn.Module().add_module):
        with pytest.raises(TypeError, match="name"):
            call("name", 3)  # type: ignore[arg-type]


def test_modes_freezing_and_gradients() -> None:
    block = Block()
    assert not any(m.training for m in block.eval().modules()) and all(m.training for m in block.train().modules())
    block.requires_grad_(False)
    assert not block(Tensor(np.ones((1, 2), np.float32))).requires_grad
    block.requires_grad_()
    block(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    block.zero_grad(set_to_none=False)
    assert all(not p.grad.data.any() for p in block.parameters())  # type: ignore[union-attr]
    block.zero_grad()
    assert all(p.grad is None for p in block.parameters())
    seen: list[str] = []
    block.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Linear", "ReLU", "Linear", "Sequential", "ModuleList", "Block"]


def test_to_a_dtype_keeps_the_parameters() -> None:
    layer = nn.BatchNorm2d(3)
    before = list(layer.parameters())
    layer.to(np.float64)
    assert all(p is q for p, q in zip(before, layer.parameters()))
    assert [t.dtype.name for t in layer.state_dict().values()] == ["float64"] * 4 + ["int64"]
    with pytest.raises(TypeError, match="float"):
        layer.to(np.int32)
    with pytest.raises(TypeError, match="dtype"):
        nn.Linear(2, 2)(Tensor(np.ones((1, 2))))


def test_load_state_dict_says_all_that_is_wrong_and_changes_nothing() -> None:
    block = Block()
    state = {n: t.data + 1 for n, t in block.state_dict().items()}
    del state["scale"]
    state["extra"] = np.ones(2)
    state["first.weight"] = np.ones((3, 2))
    before = {n: t.data.copy() for n, t in block.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"missing: scale; unexpected: extra; first.weight has shape \(3, 2\).*\(2, 2\)"
    ):
        block.load_state_dict(state)
    for n, t in block.state_dict().items():
        np.testing.assert_array_equal(t.data, before[n])
    state["first.weight"] = before["first.weight"] + 1
    result = block.load_state_dict(state, strict=False)
    assert result.missing_keys == ["scale"] and result.unexpected_keys == ["extra"]
    np.testing.assert_array_equal(block.first.weight.data, before["first.weight"] + 1)
    np.testing.assert_array_equal(block.scale.data, before["scale"])
    with pytest.raises(TypeError, match="scale"):
        block.load_state_dict({"scale": [1, 2]}, strict=False)


def test_copies_share_nothing() -> None:
    block = Block()
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        for p, q in zip(block.parameters(), twin.parameters()):
            assert p is not q and isinstance(q, nn.Parameter) and not np.shares_memory(p.data, q.data)
            np.testing.assert_array_equal(p.data, q.data)
        twin(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    assert all(p.grad is None for p in block.parameters())


def test_containers() -> None:
    row = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(row) == 3 and isinstance(row[-1], nn.Linear) and [type(m) for m in row[1:]] == [nn.ReLU, nn.Linear]
    row.append(nn.Tanh())
    row[1] = nn.Sigmoid()
    del row[3]
    assert [type(m).__name__ for m in row] == ["Linear", "Sigmoid", "Linear"]
    named = nn.Sequential({"conv": nn.Conv2d(1, 2, 3), "act": nn.ReLU()})
    assert list(named.state_dict()) == ["conv.weight", "conv.bias"] and named[1] is named.act
    listed = nn.ModuleList([nn.ReLU()])
    listed.insert(0, nn.Tanh())
    assert [type(m).__name__ for m in listed] == ["Tanh", "ReLU"] and len(listed[:1]) == 1
    with pytest.raises(IndexError, match="2 modules"):
        _ = listed[2]
    table = nn.ModuleDict({"a": nn.ReLU()})
    table["b"] = nn.Linear(1, 1)
    assert "b" in table and list(table) == ["a", "b"] and len(table) == 2 and list(table.keys()) == ["a", "b"]
    del table["a"]
    assert [n for n, _ in table.items()] == ["b"] and list(table.values()) == [table["b"]]
    with pytest.raises(TypeError, match="nn.ReLU"):
        nn.Sequential(F.relu)  # type: ignore[arg-type]
    assert (
        repr(nn.Sequential(nn.Linear(2, 3)))
        == "Sequential(\n  (0): Linear(in_features=2, out_features=3, bias=True)\n)"
    )


# --------------------------------------------------------------------------------------------------
# Hooks


def test_forward_hooks() -> None:
    layer = nn.ReLU()
    before = layer.register_forward_pre_hook(lambda module, args: (args[0] * -1,))
    after = layer.register_forward_hook(lambda module, args, output: output + args[0])
    assert float(layer(Tensor(np.array(-2.0))).data) == 4
    before.remove()
    assert float(layer(Tensor(np.array(-2.0))).data) == -2
    after.remove()
    after.remove()
    assert float(layer(Tensor(np.array(-2.0))).data) == 0


def test_backward_hooks_as_torch() -> None:
    x, v = np.random.default_rng(0).standard_normal((2, 3)), np.random.default_rng(1).standard_normal((2, 4))
    seen: dict[str, Any] = {}

    def note(side: str) -> Any:
        def hook(module: Any, grad_input: Any, grad_output: Any) -> Any:
            seen[side] = (grad_input, grad_output)
            return (grad_input[0] * 2,)

        return hook

    ours, theirs = nn.Linear(3, 4), tnn.Linear(3, 4)
    ours.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    ours.to("float64").register_full_backward_hook(note("ours"))
    theirs.double().register_full_backward_hook(note("theirs"))
    a, b = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ours(a * 1).backward(Tensor(v))
    theirs(b * 1).backward(torch.tensor(v))
    np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-12)  # type: ignore[union-attr]
    for part in range(2):
        np.testing.assert_allclose(seen["ours"][part][0].data, seen["theirs"][part][0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.weight.grad.data, theirs.weight.grad.numpy(), rtol=1e-12)


def test_hooks_leave_nothing_to_the_garbage_collector() -> None:
    layer = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU())
    layer[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    x = Tensor(np.ones((4, 2), np.float32), requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        layer(x).sum().backward()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_backward_hook_where_the_input_needs_no_gradient() -> None:
    layer, seen = nn.Linear(3, 4), []
    handle = layer.register_full_backward_hook(lambda module, gi, go: seen.append((gi, go)))
    layer(Tensor(np.ones((2, 3), np.float32))).sum().backward()
    assert seen[0][0] == (None,) and seen[0][1][0].shape == (2, 4)
    handle.remove()
    layer(Tensor(np.ones((2, 3), np.float32))).sum().backward()
    assert len(seen) == 1


# --------------------------------------------------------------------------------------------------
# Refusals and initial values


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "groups"),
        (lambda: nn.Conv2d(0, 4, 3), ValueError, "channels"),
        (lambda: nn.Conv2d(3, 4, 0), ValueError, "kernel_size"),
        (lambda: nn.Conv2d(3, 4, 3, stride=0), ValueError, "stride"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, "padding_mode"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), ValueError, "zeros"),
        (lambda: nn.BatchNorm2d(3)(Tensor(np.ones((2, 3, 4), np.float32))), ValueError, r"\(N, C, H, W\)"),
        (lambda: nn.InstanceNorm2d(3)(Tensor(np.ones((2, 3), np.float32))), ValueError, "C, H, W"),
        (lambda: nn.GroupNorm(4, 6), ValueError, "divide"),
        (lambda: nn.Dropout(2.0), ValueError, "p is"),
        (lambda: nn.ZeroPad2d((1, 2)), ValueError, "padding"),
        (lambda: init.kaiming_normal_(Tensor(np.ones(3))), ValueError, "axes"),
        (lambda: init.kaiming_normal_(Tensor(np.ones((3, 2))), mode="out"), ValueError, "mode"),
        (lambda: init.calculate_gain("gelu"), ValueError, "gelu"),
        (lambda: init.trunc_normal_(Tensor(np.ones(3)), a=1, b=0), ValueError, "below"),
        (lambda: init.uniform_(Tensor(np.ones(3)), generator=0), TypeError, "generator"),  # type: ignore[arg-type]
    ],
)
def test_refusals(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_batch_norm_counts_only_batches_that_went_through() -> None:
    layer = nn.BatchNorm1d(2)
    with pytest.raises(ValueError):
        layer(Tensor(np.ones((1, 2), np.float32)))
    assert int(layer.num_batches_tracked.data) == 0  # type: ignore[union-attr]
    layer(Tensor(np.ones((3, 2), np.float32)))
    assert int(layer.num_batches_tracked.data) == 1  # type: ignore[union-attr]
    layer.reset_running_stats()
    assert [float(t.data.sum()) for t in layer.buffers()] == [0, 2, 0]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("uniform_", {"a": -1.0, "b": 3.0}),
        ("normal_", {"mean": 1.0, "std": 2.0}),
        ("trunc_normal_", {"mean": 1.0, "std": 2.0, "a": -1.0, "b": 2.0}),
        ("trunc_normal_", {"a": 4.0, "b": 5.0}),
        ("xavier_uniform_", {"gain": 2.0}),
        ("xavier_normal_", {}),
        ("kaiming_uniform_", {"a": 0.3}),
        ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
        ("constant_", {"val": 3.0}),
        ("ones_", {}),
        ("zeros_", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_distributions_as_torch(name: str, options: dict[str, Any]) -> None:
    shape = (60, 40, 3, 3)
    tinyconv.manual_seed(0)
    torch.manual_seed(0)
    ours = getattr(init, name)(Tensor(np.zeros(shape)), **options).data.ravel()
    theirs = getattr(tnn.init, name)(torch.zeros(shape, dtype=torch.float64), **options).numpy().ravel()
    # Five standard errors of a mean and of a quantile, for 21,600 draws on either side.
    error = 5 * theirs.std() * math.sqrt(2 / theirs.size)
    assert abs(ours.mean() - theirs.mean()) <= error
    assert abs(ours.std() - theirs.std()) <= error
    for q in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert (ours <= np.quantile(theirs, q)).mean() == pytest.approx(q, abs=0.02) or theirs.std() == 0
    assert abs(ours.min() - theirs.min()) <= 0.3 * theirs.std() + 1e-9 or "normal" in name and "trunc" not in name


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (6, 2, 2, 2), (4, 4)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    w = init.orthogonal_(Tensor(np.zeros(shape)), gain=2.0, generator=np.random.default_rng(0)).data.reshape(
        shape[0], -1
    )
    short = w if w.shape[0] <= w.shape[1] else w.T
    np.testing.assert_allclose(short @ short.T, 4 * np.eye(len(short)), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "args"),
    [("Linear", (50, 40)), ("Conv2d", (8, 20, 5)), ("ConvTranspose2d", (20, 8, 5)), ("Bilinear", (20, 10, 30))],
)
def test_default_initialisation_as_torch(name: str, args: tuple[int, ...]) -> None:
    ours, theirs = getattr(nn, name)(*args), getattr(tnn, name)(*args)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        bound = q.detach().abs().max().item()
        assert p.dtype == np.float32 and abs(p.data).max() == pytest.approx(bound, rel=0.2)
        assert p.data.std() == pytest.approx(q.std().item(), rel=0.35)


def test_gains_as_torch() -> None:
    for name in ("linear", "conv2d", "conv_transpose3d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        assert init.calculate_gain(name) == pytest.approx(tnn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.2) == pytest.approx(tnn.init.calculate_gain("leaky_relu", 0.2))


def test_seeded() -> None:
    tinyconv.manual_seed(3)
    first = nn.Conv2d(2, 3, 3).weight.data
    tinyconv.manual_seed(3)
    np.testing.assert_array_equal(nn.Conv2d(2, 3, 3).weight.data, first)


def test_load_state_dict_names_five_and_what_is_near() -> None:
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)])
    with pytest.raises(ValueError, match=r"unexpected: module.0.weight \(near 0.weight\)") as caught:
        model.load_state_dict({f"module.{name}": t for name, t in model.state_dict().items()})
    assert str(caught.value).count("and 3 more") == 2 and "3.bias" not in str(caught.value)
    with pytest.raises(ValueError, match=r"shape \(1,\), but the module's has \(2, 2\).*; and 3 more"):
        model.load_state_dict({name: np.ones(1) for name in model.state_dict()})
