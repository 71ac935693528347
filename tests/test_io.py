"""Weights in files: what others wrote is read, what we write others read, and no file can do harm."""

from __future__ import annotations

import io as bytes_io
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tinyconv import io, models

KINDS = ("safetensors", "npz", "pt")
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def torch_state() -> dict[str, torch.Tensor]:
    """Every dtype and layout that a state dict may have."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = OrderedDict(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    )
    whole = torch.arange(24.0)
    state.update(
        tied=state["0.weight"], part=whole[2:8].view(2, 3), turned=whole.view(4, 6).t(), none=torch.zeros(0, 3)
    )
    for dtype in (
        torch.float64,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    ):
        state[str(dtype)] = torch.tensor([0, 1, 1, 0]).to(dtype)
    return state


def written(kind: str, path: Path) -> dict[str, torch.Tensor]:
    """A state dict, written to ``path`` by the library that the kind of file belongs to."""
    state = torch_state()
    if kind == "pt":
        torch.save(state, path)
    elif kind == "npz":
        np.savez(path, **{name: t.numpy() for name, t in state.items()})
    else:
        save_file({name: t.clone().contiguous() for name, t in state.items()}, path)
    return state


def check_same(ours: dict[str, Any], theirs: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.numpy().dtype, name
        assert ours[name].shape == tuple(expected.shape) and np.array_equal(ours[name], expected.numpy()), name


@pytest.mark.parametrize("kind", KINDS)
def test_what_other_libraries_wrote_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"state.{kind}"
    check_same(io.load(path) if (state := written(kind, path)) else {}, state)
    path.rename(tmp_path / "state.bin")  # the content says what it is, not the name
    check_same(io.load(tmp_path / "state.bin"), state)


@pytest.mark.parametrize("kind", KINDS)
def test_other_libraries_read_what_is_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"state.{kind}"
    state = torch_state()
    io.save({name: t.numpy() for name, t in state.items()}, path)
    if kind == "pt":
        theirs = torch.load(path, weights_only=True)
    elif kind == "npz":
        theirs = {name: torch.from_numpy(array) for name, array in np.load(path, allow_pickle=False).items()}
    else:
        theirs = load_file(path)
    check_same({name: t.numpy() for name, t in theirs.items()}, state)
    check_same(io.load(path), state)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_goes_to_torch_and_back(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"lenet.{kind}"
    first, second = models.lenet5(), models.lenet5()
    io.save(first.state_dict(), path)
    second.load_state_dict(io.load(path))
    for name, value in second.state_dict().items():
        assert np.array_equal(value.data, first.state_dict()[name].data)
    io.load(path)["conv1.bias"][...] = 0  # a copy of one's own, which may be written to


def test_a_checkpoint_of_torch_is_read_with_all_around_the_weights(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"epoch": 3, "lr": 0.5, "name": "é", "best": None, "parameters": dict(net.named_parameters())}
    torch.save(
        {**state, "model": net.state_dict(), "optimizer": optimizer.state_dict(), "size": torch.Size([2])},
        tmp_path / "c.pt",
    )
    back = io.load(tmp_path / "c.pt")
    assert [back[name] for name in ("epoch", "lr", "name", "best", "size")] == [3, 0.5, "é", None, (2,)]
    assert np.array_equal(back["model"]["weight"], net.weight.detach().numpy())
    assert np.array_equal(back["parameters"]["bias"], net.bias.detach().numpy())
    assert np.array_equal(back["optimizer"]["state"][0]["exp_avg"], optimizer.state[net.weight]["exp_avg"].numpy())
    assert back["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("kind", ["npz", "pt"])
@pytest.mark.parametrize("state", [[1], {"a": 1}, {1: np.ones(2)}, {"a": {"b": np.ones(2)}}, {"a": np.array([None])}])
def test_what_a_file_cannot_keep_is_refused_before_it_is_written(kind: str, state: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"save: a .{kind} file keeps"):
        io.save(state, tmp_path / f"a.{kind}")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------
# Hostile files


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = bytes_io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def torch_members(value: Any) -> dict[str, bytes]:
    buffer = bytes_io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def refused(path: Path, content: bytes, match: str) -> None:
    """A ValueError of one line, with little memory used on the way."""
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=match) as caught:
        io.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and path.name in str(caught.value) and len(str(caught.value)) < 500
    assert peak < 2**22 + 10 * len(content)


class Harm:
    """Unpickling it makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_never_run(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "harm"
    program = pickle.dumps({"weight": Harm(mark)}, protocol)
    pickle.loads(program).clear()
    assert mark.exists()  # it would work
    mark.unlink()
    refused(tmp_path / "a.pt", zip_of({"archive/data.pkl": program, "archive/version": b"3\n"}), "broken, or no file")
    refused(tmp_path / "b.pt", program, "broken, or no file")
    array = np.empty(1, object)
    array[0] = Harm(mark)
    np.savez(tmp_path / "c.npz", a=array)
    refused(tmp_path / "c.npz", (tmp_path / "c.npz").read_bytes(), "could be a pickle")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (
            torch.nn.Linear(2, 2),
            r"asks for torch.nn.modules.linear.Linear, which is not run: save model.state_dict\(\)",
        ),
        ({"a": torch.ones(2, dtype=torch.bfloat16)}, r"torch.BFloat16Storage, .*\.float\(\)"),
        ({"a": torch.ones(1).expand(2**20, 2**20)}, r"\(1048576, 1048576\) does not fit in its storage of 1 numbers"),
        ({"a": {1, 2}}, "__builtin__.set"),
        ({(1, 2): 3}, "neither a string nor a whole number"),
    ],
)
def test_what_is_no_state_dict_is_named(value: Any, match: str, tmp_path: Path) -> None:
    refused(tmp_path / "a.pt", zip_of(torch_members(value)), match)


def test_the_old_format_of_torch_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "a.pt", (tmp_path / "a.pt").read_bytes(), "before 1.6")


def test_files_that_claim_more_than_they_are(tmp_path: Path) -> None:
    path = tmp_path / "large"
    refused(path, zip_of({"a.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED), "compressed")
    header = bytes_io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)})
    refused(
        path, zip_of({"a.npy": header.getvalue() + b"1234"}), "claims .1048576, 1048576. of float32, but has 4 bytes"
    )
    for claim in (b"\xff" * 8, struct.pack("<Q", 2**40), struct.pack("<Q", 2**26)):
        refused(path, claim + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "broken")
    entry = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    refused(path, struct.pack("<Q", len(entry)) + entry + bytes(8), "broken")
    content = bytearray(zip_of({"a.npy": bytes(100)}))
    place = content.index(b"PK\x01\x02")
    content[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)
    refused(path, bytes(content), f"claim {2**31} bytes, but the file has {len(content)}")


def test_members_that_overlap_are_counted_each(tmp_path: Path) -> None:
    """A zip bomb without compression: many entries of the directory that point to one member."""
    one = zip_of({"a.npy": bytes(10**6)})
    start = one.index(b"PK\x01\x02")
    end = one.rindex(b"PK\x05\x06")
    entries = b"".join(one[start:end].replace(b"a.npy", f"{i:05d}".encode()) for i in range(1000))
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1000, 1000, len(entries), start, 0)
    refused(tmp_path / "bomb.npz", one[:start] + entries + tail, "claim 1000000000 bytes")


def test_a_pickle_that_doubles_itself_is_refused(tmp_path: Path) -> None:
    """A tuple of two of the last, thirty times, is 2^30 items to whoever looks at them; a list can hold itself."""
    doubled = b"\x80\x02)" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(30)) + b"."
    pickle.loads(doubled)
    refused(tmp_path / "a.pt", zip_of({"a/data.pkl": doubled}), "a container twice")
    within = b"\x80\x02]q\x00h\x00a."
    assert isinstance(pickle.loads(within)[0], list)
    refused(tmp_path / "a.pt", zip_of({"a/data.pkl": within}), "a container twice")


def tensor(storage: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The instructions that make a tensor of what ``storage`` makes."""
    numbers = [b"(" + b"".join(b"K%c" % n for n in sizes) + b"t" for sizes in (shape, stride)]
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K%c" % offset + b"".join(numbers) + b"tR"


def of_memory(kind: bytes = b"Float", key: bytes = b"0") -> bytes:
    """The instructions that make the storage of four numbers."""
    coded = [b"X" + struct.pack("<I", len(text)) + text for text in (b"storage", key, b"cpu")]
    return b"(" + coded[0] + b"ctorch\n" + kind + b"Storage\n" + coded[1] + coded[2] + b"K\x04tQ"


def test_no_tensor_reaches_beyond_its_memory(tmp_path: Path) -> None:
    """Not by its offset, shape and strides, and not as a tensor of a tensor, which has other bounds."""
    path = tmp_path / "a.pt"

    def content(program: bytes) -> bytes:
        return zip_of({"a/data.pkl": b"\x80\x02" + program + b".", "a/data/0": np.arange(4, dtype="<f4").tobytes()})

    path.write_bytes(content(tensor(of_memory(), 1, (3,), (1,))))
    assert io.load(path).tolist() == [1, 2, 3]
    for offset, shape, stride in (
        (1, (4,), (1,)),
        (0, (3,), (2,)),
        (0, (2, 3), (1, 1)),
        (5, (1,), (1,)),
        (0, (5,), (0,)),
    ):
        refused(path, content(tensor(of_memory(), offset, shape, stride)), "does not fit in its storage of 4 numbers")
    last = tensor(of_memory(), 3, (4,), (0,))  # four times the last number
    path.write_bytes(content(last))
    assert io.load(path).tolist() == [3, 3, 3, 3]
    refused(path, content(tensor(last, 0, (4,), (1,))), "has a ndarray where a storage must be")


SIZES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=3)


@FUZZ
@given(offset=st.integers(0, 12), sizes=SIZES)
def test_a_tensor_is_the_view_that_torch_makes_or_is_refused(
    tmp_path: Path, offset: int, sizes: list[tuple[int, int]]
) -> None:
    shape, stride = tuple(n for n, _ in sizes), tuple(step for _, step in sizes)
    memory = torch.arange(4.0)
    try:
        expected = torch.as_strided(memory, shape, stride, offset)
    except RuntimeError:
        expected = None
    program = b"\x80\x02" + tensor(of_memory(), offset, shape, stride) + b"."
    (tmp_path / "a.pt").write_bytes(zip_of({"a/data.pkl": program, "a/data/0": memory.numpy().tobytes()}))
    if expected is None or expected.numel() > 4:
        with pytest.raises(ValueError, match="does not fit in its storage"):
            io.load(tmp_path / "a.pt")
    else:
        assert np.array_equal(io.load(tmp_path / "a.pt"), expected.numpy())


def test_what_is_no_value_stays_out_of_the_result(tmp_path: Path) -> None:
    path, name = tmp_path / "a.pt", b"ccollections\nOrderedDict\n"
    data = {"a/data/0": bytes(16), "a/other": bytes(16)}
    for program in (name, b"]" + name + b"a", b"}K\x01" + name + b"s", name + b"\x85", b"](" + name + b"\x85\x85e"):
        refused(path, zip_of({"a/data.pkl": b"\x80\x02" + program + b".", **data}), "keeps a global as a value")
    refused(path, zip_of({"a/data.pkl": b"\x80\x02" + of_memory() + b".", **data}), "keeps a storage as a value")
    elsewhere = tensor(of_memory(key=b"a/other"), 0, (4,), (1,))
    refused(path, zip_of({"a/data.pkl": b"\x80\x02" + elsewhere + b".", **data}), "storage 'a/other' is missing")
    refused(path, zip_of({"a/data.pkl": b"\x80\x02}.", "b/data.pkl": b"\x80\x02}."}), "several members data.pkl")
    bools = zip_of(
        {"a/data.pkl": b"\x80\x02" + tensor(of_memory(b"Bool"), 0, (4,), (1,)) + b".", "a/data/0": b"\0\1\2\3"}
    )
    path.write_bytes(bools)
    assert io.load(path).astype(int).tolist() == [0, 1, 1, 1]


def test_other_pickles_and_numbers_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt", pickle_protocol=4)
    refused(tmp_path / "a.pt", (tmp_path / "a.pt").read_bytes(), "of protocol 4, but torch.save writes 2")
    save_file({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "b")
    refused(tmp_path / "b", (tmp_path / "b").read_bytes(), "it holds BF16, a type of number that NumPy lacks")
    refused(tmp_path / "c", zip_of({}), "neither npz nor what torch.save writes")


def test_names_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    tree = {"a/b": np.zeros(1), "a": {"b": np.ones(2), "b+": np.ones(3)}, "": {"a/b": np.ones(4)}}
    io.save(tree, tmp_path / "a")
    back = io.load(tmp_path / "a")
    assert (back["a/b"].size, back["a"]["b"].size, back["a"]["b+"].size, back[""]["a/b"].size) == (1, 2, 3, 4)
    for wrong in ({"$array": "a"}, {"a": [{"__metadata__": np.ones(1)}]}):
        with pytest.raises(TypeError, match="no key of a dict may be"):
            io.save(wrong, tmp_path / "b")
    for dtype in (complex, "U3", np.longdouble, "M8[s]"):
        with pytest.raises(TypeError, match="save: 'a/0' is of .*; only arrays of bools, integers and floats"):
            io.save({"a": [np.zeros(2, dtype)]}, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def touch(value: Any) -> int:
    """Read every number of a tree, so that a view beyond its memory would show."""
    if isinstance(value, dict):
        return sum(map(touch, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(touch, value))
    return len(value.tobytes()) if isinstance(value, np.ndarray) else 0


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(changed) - 1))
        kind = draw(st.sampled_from(["byte", "bit", "cut", "claim", "double"]))
        if kind == "byte":
            changed[place] = draw(st.integers(0, 255))
        elif kind == "bit":
            changed[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "claim":
            changed[place : place + 4] = b"\xff\xff\xff\x7f"
        elif kind == "double":
            changed[place:place] = changed[place : place + 16]
        else:
            del changed[max(place, 1) :]
    return bytes(changed)


def survives(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert touch(io.load(path)) <= 10 * len(content)
    except ValueError as error:
        assert path.name in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**22 + 20 * len(content)


@pytest.mark.parametrize("kind", KINDS)
@FUZZ
@given(data=st.data())
def test_a_damaged_file_gives_a_value_or_a_sentence(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / f"whole.{kind}"
    if not path.exists():
        written(kind, path)
    survives(tmp_path / "damaged", data.draw(damaged(path.read_bytes())))


@FUZZ
@given(data=st.data())
def test_a_damaged_pickle_in_a_whole_zip_gives_a_value_or_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    """The checksum of the zip finds most damage before the pickle is looked at; here it is right."""
    members = torch_members({"epoch": 3, "list": [1, (2, 3)], "model": torch_state()})
    members["archive/data.pkl"] = data.draw(damaged(members["archive/data.pkl"]))
    survives(tmp_path / "damaged", zip_of(members))


@FUZZ
@given(
    program=st.lists(
        st.sampled_from(
            [
                b"(",
                b")",
                b"]",
                b"}",
                b"t",
                b"\x85",
                b"\x86",
                b"a",
                b"e",
                b"s",
                b"u",
                b"R",
                b"Q",
                b"b",
                b"K\x01",
                b"X\x01\x00\x00\x000",
                b"X\x07\x00\x00\x00storage",
                b"q\x00",
                b"h\x00",
                b"ccollections\nOrderedDict\n",
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"ctorch\nFloatStorage\n",
                b"cos\nsystem\n",
                b"0",
                b"2",
            ]
        ),
        max_size=40,
    )
)
def test_any_program_of_the_instructions_gives_a_value_or_a_sentence(tmp_path: Path, program: list[bytes]) -> None:
    members = {"archive/data.pkl": b"\x80\x02" + b"".join(program) + b".", "archive/data/0": bytes(8)}
    survives(tmp_path / "damaged", zip_of(members))


@FUZZ
@given(data=st.data())
def test_a_damaged_array_in_a_whole_zip_gives_a_value_or_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    buffer = bytes_io.BytesIO()
    np.save(buffer, np.arange(12.0).reshape(3, 4))
    survives(tmp_path / "damaged", zip_of({"a.npy": data.draw(damaged(buffer.getvalue()))}))
