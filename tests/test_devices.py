"""Devices without a GPU, on the stand-in of cupy_on_cpu: their names, what is said where something is missing, memory,
errors that come late, and the rules of the stand-in itself.
"""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinyconv
from cupy_on_cpu import installed, module
from gpu_on_cpu import CUDARuntimeError, Refused, watching
from tinyconv import Function, Tensor, cli, explain, nn, recipes
from tinyconv import functional as F
from tinyconv.autograd import gpu
from tinyconv.optim import SGD, Adam


@pytest.fixture
def cupy() -> Iterator[Any]:
    with installed():
        yield module


def ones(*shape: int, device: str = "cpu") -> Tensor:
    return tinyconv.ones(*shape, device=device, requires_grad=True)


# --------------------------------------------------------------------------------------------------
# Names


def test_the_name_of_a_device() -> None:
    device = tinyconv.device("cuda:0")
    assert device == "cuda" and device.type == "cuda" and f"{device}" == "cuda" and {device: 1}["cuda"] == 1
    assert repr(tinyconv.device("cpu")) == "device(type='cpu')" == repr(Tensor(1.0).device)
    assert tinyconv.device(device) == device != tinyconv.device("cpu")
    for name in ("gpu", "cuda:1", ""):
        with pytest.raises(ValueError, match=f"device: must be 'cpu' or 'cuda', but is '{name}'"):
            tinyconv.device(name)
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        Tensor(1.0).to("cuda:1")


def test_moving(cupy: Any) -> None:
    x = Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    for there in (x.to("cuda"), x.cuda(), x.to(tinyconv.device("cuda")), x.to(device="cuda"), x.to("cuda:0")):
        assert there.device == "cuda" and isinstance(there.data, cupy.ndarray)
        assert there.to("cuda") is there and (there.cpu().data == x.data).all()
    both = x.to("cuda", tinyconv.float32)
    assert both.device == "cuda" and both.dtype == np.float32 and x.detach().to(both).dtype == np.float32
    assert x.to(device="cuda", dtype=tinyconv.int64).dtype == np.int64 and x.to("cpu") is x
    (g,) = tinyconv.grad((x.cuda() * 2).cpu(), x, Tensor(x.data))
    assert g.device == "cpu" and (g.data == 2 * x.data).all()
    assert tinyconv.zeros_like(both).device == tinyconv.ones_like(both).device == "cuda"
    assert "device=cuda" in repr(both) and tinyconv.cuda.is_available()
    with pytest.raises(RuntimeError, match=r"numpy: this tensor is on the GPU. Use x.to\('cpu'\)"):
        both.detach().numpy()
    with pytest.raises(RuntimeError, match="tensor: a list holds a tensor on the GPU"):
        Tensor([both, both])
    with pytest.raises(ValueError, match="gradcheck: inputs must be on the CPU"):
        tinyconv.gradcheck(tinyconv.sin, tinyconv.ones(2, dtype="float64", device="cuda", requires_grad=True))


def test_a_tensor_is_made_where_its_data_is(cupy: Any) -> None:
    there = tinyconv.tensor(cupy.zeros(3, np.float32))
    assert (
        there.device == "cuda" == tinyconv.tensor(there).device and tinyconv.tensor(there, device="cpu").device == "cpu"
    )
    assert tinyconv.tensor([1.0, 2], device="cuda").cpu().tolist() == [1, 2]


@pytest.mark.parametrize(("name", "mean", "deviation"), [("rand", 0.5, 12**-0.5), ("randn", 0.0, 1.0)])
def test_random_values_are_the_same_on_both_devices(name: str, mean: float, deviation: float, cupy: Any) -> None:
    draw, drawn = getattr(tinyconv, name), []
    for device in ("cpu", "cuda"):
        tinyconv.manual_seed(8)
        x = draw(100, 50, device=device, requires_grad=True)
        assert x.device == device and x.dtype == np.float32 and x.requires_grad and x.is_leaf
        drawn.append(x.detach().cpu().data)
    np.testing.assert_array_equal(*drawn)
    n = drawn[0].size
    assert abs(drawn[0].mean() - mean) < 4 * deviation / n**0.5
    assert abs(drawn[0].std() / deviation - 1) < 4 / n**0.5
    a, b = (draw((2, 3), generator=np.random.default_rng(1), dtype=tinyconv.float64).data for _ in range(2))
    np.testing.assert_array_equal(a, b, strict=True)
    assert (tinyconv.rand(20_000, dtype=tinyconv.float16).data < 1).all(), "the 1 that float16 rounds to is excluded"
    with pytest.raises(TypeError, match=f"{name}: dtype must be a float, but is int64"):
        draw(2, dtype=tinyconv.int64)


def test_a_module_moves_all_or_nothing(cupy: Any) -> None:
    module = nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50), nn.Linear(50, 60))
    F.mse_loss(module(Tensor(np.eye(3, 40, dtype=np.float32))), tinyconv.zeros(3, 60)).backward()
    kept = list(module.parameters())
    with installed(limit=12_000), pytest.raises(MemoryError, match="no room"):
        module.cuda()
    assert {t.device for t in [*module.parameters(), *module.buffers()]} == {"cpu"}
    module.to("cuda", tinyconv.float64)
    parts = [*module.parameters(), *module.buffers(), *(p.grad for p in module.parameters())]
    assert {t.device for t in parts} == {"cuda"} and all(p is q for p, q in zip(module.parameters(), kept))
    assert module[1].num_batches_tracked.dtype == np.int64 and kept[0].dtype == np.float64  # type: ignore[index]
    assert {t.device for t in module.cpu().state_dict().values()} == {"cpu"}
    with pytest.raises(TypeError, match="Module.to: a module holds floats"):
        module.to(tinyconv.int64)


# --------------------------------------------------------------------------------------------------
# What is missing


def message(call: Callable[[], Any], kind: type[Exception] = RuntimeError) -> str:
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).count("\n") == 0
    return str(raised.value)


def use_gpu() -> Any:
    return Tensor(1.0).to("cuda")


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert message(use_gpu) == "to: a GPU needs CuPy. Install it with: pip install 'tinyconv[gpu]'."
    assert message(lambda: tinyconv.zeros(2, device="cuda")).startswith("zeros: a GPU needs CuPy")
    assert not tinyconv.cuda.is_available() and "CuPy" in cli._gpu()


def test_a_broken_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cupy":
            raise ImportError("libnvrtc.so.12: cannot open shared object file")
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", broken)
    assert "installed, but cannot be imported: libnvrtc.so.12" in message(use_gpu)


def test_no_gpu() -> None:
    for devices in (0, CUDARuntimeError(100)):
        with installed(devices=devices):
            said = message(use_gpu)
            assert "GPU" in said and said.endswith("or stay on the CPU.") and not tinyconv.cuda.is_available()
    assert "there is no GPU. Check nvidia-smi and CUDA_VISIBLE_DEVICES" in said


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        (0, "there is no NVIDIA driver. Install one"),
        (11040, "the NVIDIA driver knows CUDA up to 11.4 and CuPy was built for 12.9. Update the driver"),
    ],
)
def test_no_driver_or_one_too_old(driver: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA says cudaErrorInsufficientDriver to both."""
    with installed(devices=CUDARuntimeError(35)):
        monkeypatch.setattr(module.cuda.runtime, "driverGetVersion", lambda: driver)
        assert told in message(use_gpu)
        assert told in cli._gpu()


def test_another_error_of_the_runtime() -> None:
    with installed(devices=CUDARuntimeError(3)):
        assert "its GPU cannot be used (cudaErrorInitializationError" in message(use_gpu)


# --------------------------------------------------------------------------------------------------
# Tensors on two devices

MIXED: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "add": (lambda here, there: here + there, "add: .* input is on 'cpu' and other is on 'cuda'.*input.to"),
    "mul": (lambda here, there: there * here, "mul: .* input is on 'cuda' and other is on 'cpu'.*other.to"),
    "an array": (lambda here, there: there - here.detach().data, "sub: .*other is on 'cpu'"),
    "matmul": (lambda here, there: here @ there, "matmul: all tensors must be on one device"),
    "linear": (lambda here, there: F.linear(here, there), "linear: .*input is on 'cpu' and weight is on 'cuda'"),
    "conv2d": (
        lambda here, there: F.conv2d(there.reshape(1, 1, 4, 4), here.reshape(1, 1, 4, 4)),
        r"conv2d: .*input is on 'cuda' and weight is on 'cpu'.*weight.to\('cuda'\)",
    ),
    "bias": (
        lambda here, there: F.conv2d(there.reshape(1, 1, 4, 4), there.reshape(1, 1, 4, 4), here[0, :1]),
        "conv2d: .* bias is on 'cpu'",
    ),
    "cat": (lambda here, there: tinyconv.cat([here, there]), "cat: .*tensor 0 is on 'cpu' and tensor 1 is on 'cuda'"),
    "where": (lambda here, there: tinyconv.where(here > 0, there, 0.0), "where: .*condition is on 'cpu'"),
    "getitem": (lambda here, there: here[there[0].long()], "getitem: .*'cuda'"),
    "setitem": (lambda here, there: here.detach().__setitem__(0, there.detach()[0]), "setitem: .*value is on 'cuda'"),
    "in place": (lambda here, there: there.detach().add_(here.detach()), "add_: .*other is on 'cpu'"),
    "cross_entropy": (lambda here, there: F.cross_entropy(there, here[0].long()), "cross_entropy: .*target is on"),
    "class weights": (
        lambda here, there: F.cross_entropy(there, there[0].long(), here[0]), "cross_entropy: .*weight is on 'cpu'"
    ),
    "mse_loss": (lambda here, there: F.mse_loss(there, here), "mse_loss: .*target is on 'cpu'"),
    "batch_norm": (lambda here, there: F.batch_norm(there, None, None, here[0], training=True), "batch_norm: .*weight"),
    "gather": (lambda here, there: tinyconv.gather(there, 0, here.long()), "gather: .*index is on 'cpu'"),
    "backward": (lambda here, there: there.clone().backward(here.detach()), "backward: .*'cuda', but is on 'cpu'"),
    "a module": (lambda here, there: nn.Linear(4, 2)(there), "linear: .*input is on 'cuda' and weight is on 'cpu'"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_tensors_on_two_devices(name: str, cupy: Any) -> None:
    call, told = MIXED[name]
    with pytest.raises(RuntimeError, match=told):
        call(ones(4, 4), ones(4, 4, device="cuda"))


def test_a_number_in_a_tensor_may_be_anywhere(cupy: Any) -> None:
    """As in torch: a 0-d tensor on the CPU counts as a number, also for its gradient."""
    here, there = Tensor(3.0, requires_grad=True), ones(2, device="cuda")
    for y in (
        there * here,
        here * there,
        tinyconv.where(there > 0, here, there),
        tinyconv.clamp(there, min=here) * here,
    ):
        (g,) = tinyconv.grad(y.sum(), here)
        assert y.device == "cuda" and g.device == "cpu" and g.item() in (2, 12)


def test_the_state_of_an_optimiser_stays_behind(cupy: Any) -> None:
    module = nn.Linear(2, 2)
    optimizer = Adam(module.parameters())

    def step() -> None:
        module(tinyconv.ones(1, 2, device=next(module.parameters()).device)).sum().backward()
        optimizer.step()

    step()
    module.cuda()
    with pytest.raises(
        RuntimeError, match=r"Adam.step: a parameter is on 'cuda', but its exp_avg is not. .*state_dict"
    ):
        step()
    optimizer.load_state_dict(optimizer.state_dict())
    step()
    p = next(module.parameters())
    p.grad = tinyconv.zeros(2, 2)
    with pytest.raises(RuntimeError, match="but its gradient is not. Move the module"):
        optimizer.step()


# --------------------------------------------------------------------------------------------------
# Memory


def test_out_of_memory_names_the_operator_and_leaves_the_process_usable() -> None:
    with installed(limit=100_000) as state:
        x = tinyconv.ones(100, 100, device="cuda")  # 40,000 bytes
        y = tinyconv.zeros(1, 100, device="cuda")
        said = message(lambda: F.conv2d(x.reshape(1, 1, 100, 100), y.reshape(100, 1, 1, 1)), MemoryError)
        assert said.startswith("conv2d: the GPU has no room for 3.815 MiB: ") and "are free, and tensors hold" in said
        assert state.kept == 0, "the pool has given back what it kept"
        z = x + x
        del z
        w = x * 2
        assert w.sum().item() == 20_000


class Greedy(Function):
    """Three arrays of its own at once."""

    def forward(self, x: Any) -> Any:
        a = x + 1
        b = a + 1
        return a + b


def test_an_error_that_is_kept_keeps_no_arrays() -> None:
    """As in a notebook, which keeps the last one: the frame of forward is gone with what it had allocated."""
    with installed() as state:
        x = tinyconv.ones(100, 100, device="cuda")
        state.leave(100_000)
        before = state.used
        with pytest.raises(MemoryError, match="^Greedy: the GPU has no room for 39.06 KiB") as kept:
            Greedy()(x)
        assert state.used == before and kept.value is not None


def test_out_of_memory_in_backward_frees_the_gradients_on_their_way() -> None:
    """Also while somebody holds the error, whose frames hold what they were working on."""
    with installed() as state:
        x = tinyconv.ones(100, 100, device="cuda", requires_grad=True)
        loss = (x.exp().sin().exp() * 0.5).sum()
        state.leave(50_000)
        before = state.used
        with pytest.raises(MemoryError, match="^gradient of .* no room") as raised:
            loss.backward()
        assert state.used - before <= 40_000, "at most the gradient that was being computed"
        del loss
        state.limit = None
        (x * 3).sum().backward()
        assert raised.value is not None and x.grad is not None and x.grad.sum().item() == 30_000


def test_out_of_memory_in_a_step() -> None:
    with installed() as state:
        p = tinyconv.ones(100, 100, device="cuda", requires_grad=True)
        p.grad = tinyconv.ones(100, 100, device="cuda")
        state.leave(50_000)
        with pytest.raises(MemoryError, match="Adam.step: the GPU has no room for 39.06 KiB"):
            Adam([p]).step()


# --------------------------------------------------------------------------------------------------
# Errors that come late


def test_a_late_error_says_how_to_find_its_operator() -> None:
    with installed() as state:
        x = tinyconv.ones(3, device="cuda")
        state.later = CUDARuntimeError(700)
        y = x * 2  # nothing is noticed here
        with pytest.raises(RuntimeError, match=r"to: the GPU reports cudaErrorIllegalAddress.*detect_anomaly\(\)"):
            y.to("cpu")
        with pytest.raises(RuntimeError, match=r"cpu: the GPU reports cudaErrorIllegalAddress.*detect_anomaly\(\)"):
            y[0].item()
        with pytest.raises(RuntimeError, match=r"synchronize: the GPU reports cudaErrorIllegalAddress"):
            tinyconv.cuda.synchronize()


def test_in_anomaly_mode_the_operator_that_failed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed() as state:
        x = tinyconv.ones(3, 3, device="cuda", requires_grad=True)
        sin = module.sin

        def broken(*args: Any) -> Any:
            state.later = CUDARuntimeError(700)
            return sin(*args)

        monkeypatch.setattr(module, "sin", broken)
        with tinyconv.detect_anomaly():
            y = x * 2
            with pytest.raises(RuntimeError, match="^sin: its kernel failed on the GPU: cudaErrorIllegalAddress"):
                y.sin()
            state.later = None
            z = x.cos().sum()
            with pytest.raises(RuntimeError, match=r"Cos: backward failed \(gradient of Cos: its kernel failed"):
                z.backward()


def test_questions_about_values_are_asked_by_one_read() -> None:
    with installed() as state:
        x = tinyconv.arange(4, device="cuda")
        before = state.counts["read"]
        for _ in range(10):
            y = x // x.flip(0).clamp(min=1)
        assert state.counts["read"] == before
        assert y.tolist() == [0, 0, 2, 3] and state.counts["read"] == before + 2
        with pytest.raises(ValueError, match="an integer is divided by zero.*The call was at .*test_devices.py"):
            print(x // x)
        assert not gpu._open


# --------------------------------------------------------------------------------------------------
# Training


def test_the_command_line_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    arguments = "train --model lenet5 --data digits --epochs 1 --device cuda --out".split()
    assert cli.main([*arguments, str(tmp_path)]) == 1
    assert "tinyconv train: --device cuda: a GPU needs CuPy. Install it with" in capsys.readouterr().err


def test_a_trained_network_predicts_where_it_is(cupy: Any) -> None:
    plan = recipes.recipe("lenet5", "digits")
    image = np.random.default_rng(0).standard_normal((1, 8, 8)).astype(np.float32)
    network = plan.build()
    here = recipes.predict(plan, network, image)
    with installed(checked=False):
        there = recipes.predict(plan, network.cuda(), image)
    assert isinstance(there, np.ndarray)
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


def test_the_summary_of_a_network_on_the_device(cupy: Any) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    here = str(explain.summary(network, (2, 3)))
    assert str(explain.summary(network.cuda(), (2, 3))) == here


# --------------------------------------------------------------------------------------------------
# The stand-in


def test_the_stand_in_refuses_what_cupy_refuses(cupy: Any) -> None:
    x, y = cupy.arange(6.0).reshape(2, 3), np.ones((2, 3))
    for call in (
        lambda: np.asarray(x), lambda: x + y, lambda: y + x, lambda: np.add(y, x), lambda: cupy.maximum(x, y),
        lambda: cupy.concatenate([x, y]), lambda: np.concatenate([x, y]), lambda: cupy.where(x > 1, x, y),
        lambda: x.sum(initial=0), lambda: cupy.zeros(3, like=x), lambda: range(cupy.arange(1)[0]),
        lambda: x.astype(np.float32, casting="safe"),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            call()
    for call in (
        lambda: cupy.vecdot_of_nothing,
        lambda: x.flags.writeable,
        lambda: x.ctypes,
        lambda: cupy.cuda.nothing,
    ):
        with pytest.raises(AttributeError):
            call()
    with pytest.raises(ValueError):
        x[...] = y


def test_the_stand_in_computes_as_cupy(cupy: Any) -> None:
    x = cupy.arange(6.0).reshape(2, 3)
    with watching("read", "sent"):
        results = (
            x.sum(),
            x[0, 0],
            cupy.max(x),
            np.sum(x),
            np.float32(2) * x,
            np.sqrt(x),
            -x,
            x @ x.T,
            x > 1,
            x.mean(0),
        )
        assert all(isinstance(r, cupy.ndarray) for r in results)
        x += np.float32(1)
        x[0] = 2.5
        view = x[:, 1:]
        view *= 2
        assert view.base is not None and x.base is not None and x.copy().base is None
        for read in (
            x.get,
            lambda: float(x[0, 0]),
            lambda: x[x > 1],
            lambda: bool(x[0, 0] > 1),
            lambda: cupy.bincount(x),
        ):
            with pytest.raises(Refused):
                read()
        for send in (lambda: cupy.asarray([1]), lambda: x[[0]]):
            with pytest.raises(Refused):
                send()
    np.testing.assert_array_equal(x.get(), [[2.5, 5, 5], [4, 10, 12]])
    assert cupy.exp(cupy.arange(3, dtype=np.int16)).dtype == np.float32 and cupy.arange(3).sum().dtype == np.int64
    assert x[cupy.array([7])].get().tolist() == [[4, 10, 12]], "indices wrap around"
    x[cupy.array([0, 0])] = cupy.array([[1.0], [2.0]])
    assert x.get()[0].tolist() != [2, 2, 2], "not the last value stays"


def test_importing_the_library_imports_no_cupy() -> None:
    code = "import sys, tinyconv; tinyconv.cuda; tinyconv.device('cuda'); assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_training_step_of_a_module_that_was_moved(cupy: Any) -> None:
    module = nn.Linear(3, 1).cuda()
    optimizer = SGD(module.parameters(), lr=0.1)
    x, y = (tinyconv.ones(8, n, device="cuda") for n in (3, 1))
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.mse_loss(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
