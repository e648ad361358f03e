"""Reading of sound checkpoints, in every container and layout."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from forged_checkpoints import Call, Storage, Tensor, pickled, write_legacy, write_zip

import bitexport.checkpoint
from bitexport.checkpoint import Checkpoint, flatten_state, read_checkpoint
from bitexport.errors import InputError, UnsupportedModel


def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    return model.state_dict()


def save(path: Path, root: object, container: str = "torch zip") -> Path:
    if container == "safetensors":
        safetensors.torch.save_file(root, path)
    else:
        torch.save(root, path, _use_new_zipfile_serialization=container == "torch zip")
    return path


def assert_same(checkpoint: Checkpoint, state: dict[str, torch.Tensor]) -> None:
    tensors = checkpoint.tensors()
    assert sorted(tensors) == sorted(state)
    for key, value in state.items():
        assert tensors[key].dtype == value.dtype
        assert torch.equal(tensors[key], value), key


def test_public_names_exist() -> None:
    assert all(hasattr(bitexport.checkpoint, name) for name in bitexport.checkpoint.__all__)


@pytest.mark.parametrize("container", ["torch zip", "torch legacy", "safetensors"])
def test_containers(tmp_path: Path, container: str) -> None:
    state = small_state()
    path = save(tmp_path / "any.name", state, container)

    checkpoint = read_checkpoint(str(path))

    assert checkpoint.container == container
    assert checkpoint.path == path
    assert checkpoint.size == path.stat().st_size
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.metadata == {}
    assert_same(checkpoint, state)
    assert checkpoint.tensor("0.weight").shape == (4, 3, 3, 3)


@pytest.mark.parametrize("container", ["torch zip", "torch legacy"])
@pytest.mark.parametrize(
    "key", ["state_dict", "model_state_dict", "model", "net", "state_dict_ema"]
)
def test_nested_state_with_training_beside_it(tmp_path: Path, container: str, key: str) -> None:
    state = small_state()
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    root = {
        "epoch": 7,
        key: state,
        "best_top1_acc": torch.tensor(62.5),
        "best_top5_acc": torch.tensor([84.25]),
        "class_weights": torch.ones(3),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "parameters": [parameter],
        "resumed": True,
    }

    checkpoint = read_checkpoint(save(tmp_path / "c.pth.tar", root, container))

    assert_same(checkpoint, state)
    scalars = {"epoch": 7, "best_top1_acc": 62.5, "best_top5_acc": 84.25, "resumed": True}
    assert checkpoint.metadata == scalars


def test_model_may_be_a_name_beside_the_state(tmp_path: Path) -> None:
    root = {"model": "resnet20_1w1a", "state_dict": small_state(), "best_prec1": 17.25}

    checkpoint = read_checkpoint(save(tmp_path / "c.pth", root))

    assert_same(checkpoint, small_state())
    assert checkpoint.metadata == {"model": "resnet20_1w1a", "best_prec1": 17.25}


def test_flat_state_with_training_beside_it(tmp_path: Path) -> None:
    # A layer may be called like what training keeps, and have a scalar of its own.
    state = {**small_state(), "scaler.weight": torch.ones(3)}
    root = {**state, "head.n_blocks": 4, "epoch": 3, "optimizer_state": {"x": torch.ones(2)}}

    checkpoint = read_checkpoint(save(tmp_path / "c.pth", root))

    assert_same(checkpoint, state)
    assert checkpoint.values["head.n_blocks"] == 4
    assert checkpoint.metadata == {"epoch": 3}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefix_is_stripped(tmp_path: Path, prefix: str) -> None:
    state = {prefix + key: value for key, value in small_state().items()}

    checkpoint = read_checkpoint(save(tmp_path / "c.pth", {"state_dict": state}))

    assert_same(checkpoint, small_state())


def test_prefix_stays_unless_every_tensor_has_it(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert_same(read_checkpoint(save(tmp_path / "c.pth", state)), state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_kill_the_bits_layout(tmp_path: Path, prefix: str) -> None:
    layer = {
        "centroids": torch.rand(16, 9).half(),
        "assignments": torch.arange(8, dtype=torch.uint8),
        "n_blocks": 2,
        "is_conv": True,
        "k": 3,
    }
    root = {
        f"{prefix}layer1.0.conv1": layer,
        f"{prefix}bn1": {"weight": torch.ones(4).half(), "bias": torch.zeros(4).half()},
        f"{prefix}fc": {**layer, "assignments": torch.arange(8, dtype=torch.int16)},
        f"{prefix}fc_bias": {"bias": torch.zeros(10)},
    }

    values = read_checkpoint(save(tmp_path / "c.pth", root, "torch legacy")).values

    assert values["layer1.0.conv1.n_blocks"] == 2
    assert values["layer1.0.conv1.is_conv"] is True
    assert values["layer1.0.conv1.centroids"].dtype == torch.float16
    assert values["fc.assignments"].dtype == torch.int16
    assert {"bn1.weight", "bn1.bias", "fc_bias.bias"} < set(values)


def test_parameters_come_back_plain_and_detached(tmp_path: Path) -> None:
    tensor = read_checkpoint(
        save(tmp_path / "c.pth", {"w": torch.nn.Parameter(torch.ones(3))})
    ).tensor("w")
    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad


def test_unusual_but_harmless_content(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    empty = torch.zeros(0, 4)
    state = {
        "transposed": base.t(),
        "slice": base[1:3, 2:],
        "scalar": torch.tensor(3),
        "empty": empty,
        "empty in another type": empty.view(torch.int16),
        "empty rows": torch.zeros(5, 0),
        "u16": torch.arange(3).to(torch.uint16),
        "f8": torch.ones(2).to(torch.float8_e4m3fn),
        "bf16": torch.ones(2).bfloat16(),
        "bool": torch.tensor([True, False]),
        "nan": torch.full((2,), float("inf")),
    }
    beside = {
        "args": {"lr": 0.1, "names": ["a", None], "betas": (0.9, 0.999), "raw": b"\x80x"},
        "milestones": Counter({30: 1}),
        "classes": {1, 2},
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cuda:0"),
        "seed": 1 << 63,
        "imaginary": 1j,
        "nothing": None,
    }
    for container in ("torch zip", "torch legacy"):
        if container == "torch legacy":
            del state["u16"], state["f8"]
        root = {"state_dict": OrderedDict(state), **beside}
        checkpoint = read_checkpoint(save(tmp_path / "c.pth", root, container))
        tensors = checkpoint.tensors()
        assert sorted(tensors) == sorted(state)
        for key, value in state.items():
            assert torch.equal(tensors[key].double(), value.double()), key
        assert checkpoint.metadata == {"seed": 1 << 63}


@pytest.mark.parametrize("name", ["model.safetensors", "模型.pth", "-x.pth", "a b's.pth"])
@pytest.mark.parametrize("container", ["torch zip", "torch legacy", "safetensors"])
def test_the_name_decides_nothing(tmp_path: Path, name: str, container: str) -> None:
    path = save(tmp_path / name, small_state(), container)
    assert read_checkpoint(path).container == container


def test_safetensors_metadata(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    safetensors.torch.save_file(
        {"module.w": torch.ones(2)}, path, metadata={"format": "pt", "arch": "resnet18"}
    )
    checkpoint = read_checkpoint(path)
    assert list(checkpoint.values) == ["w"]
    assert checkpoint.metadata == {"format": "pt", "arch": "resnet18"}


def test_symlinks_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "c.pth", small_state())
    (tmp_path / "link.pth").symlink_to(tmp_path / "c.pth")
    assert_same(read_checkpoint(tmp_path / "link.pth"), small_state())


def test_safetensors_without_metadata(tmp_path: Path) -> None:
    """Its reader takes null for none."""
    header = b'{"__metadata__":null,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path = tmp_path / "c.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    checkpoint = read_checkpoint(path)
    assert not checkpoint.metadata and list(checkpoint.tensors()) == ["a"]


@pytest.mark.parametrize("container", ["torch zip", "torch legacy", "safetensors"])
def test_a_file_that_is_written_over_later(tmp_path: Path, container: str) -> None:
    """Mapped tensors would be those of the new file by now."""
    path = save(tmp_path / "c", small_state(), container)
    checkpoint = read_checkpoint(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same(checkpoint, small_state())


def test_cuda_tags_are_read_on_the_cpu(tmp_path: Path) -> None:
    content = struct.pack("<4f", 1, 2, 3, 4)
    state = {"w": Tensor(Storage("0", 4, "cuda:0"), (2, 2), (2, 1))}
    legacy = write_legacy(tmp_path / "a", pickled(state, legacy=True), {"0": content})
    zipped = write_zip(tmp_path / "b", pickled(state), {"0": content})
    for path in (legacy, zipped):
        tensor = read_checkpoint(path).tensor("w")
        assert tensor.device.type == "cpu"
        assert tensor.tolist() == [[1, 2], [3, 4]]


def test_repacked_zip(tmp_path: Path) -> None:
    """Records are compressed, or begin anywhere."""
    path = save(tmp_path / "c.pth", small_state())
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        repacked = tmp_path / f"repacked{compression}.pth"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(repacked, "w", compression) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        assert_same(read_checkpoint(repacked), small_state())


def test_zip_whose_directory_counts_in_64_bits(tmp_path: Path) -> None:
    """As in files of 4 GiB and more; other extra fields may come first."""
    path = save(tmp_path / "c.pth", small_state())
    with zipfile.ZipFile(path) as archive:
        entries, start = archive.infolist(), archive.start_dir
    directory = b""
    for e in entries:
        extra = struct.pack("<HHI", 0x5455, 4, 0)
        extra += struct.pack("<HH3Q", 1, 24, e.file_size, e.compress_size, e.header_offset)
        name, wide = e.filename.encode(), 0xFFFFFFFF
        fixed = (20, 45, e.flag_bits, e.compress_type, 0, 0, e.CRC, wide, wide, len(name))
        directory += b"PK\x01\x02" + struct.pack("<6H3LH", *fixed)
        directory += struct.pack("<4H2L", len(extra), 0, 0, 0, 0, wide) + name + extra
    counts = (0, 0, len(entries), len(entries), len(directory), start, 0)
    end = b"PK\x05\x06" + struct.pack("<4H2LH", *counts)
    path.write_bytes(path.read_bytes()[:start] + directory + end)
    assert_same(read_checkpoint(path), small_state())


def test_tensors_of_the_first_versions_of_torch(tmp_path: Path) -> None:
    """They had no hooks."""
    content = struct.pack("<4f", 1, 2, 3, 4)
    call = Call(torch._utils._rebuild_tensor, (Storage("0", 4), 1, (3,), (1,)))
    path = write_legacy(tmp_path / "a", pickled({"w": call}, legacy=True), {"0": content})
    assert read_checkpoint(path).tensor("w").tolist() == [2, 3, 4]


def test_big_endian_file(tmp_path: Path) -> None:
    path = tmp_path / "big.pth"
    state = {"w": Tensor(Storage("0", 2), (2,), (1,))}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled(state))
        archive.writestr("a/byteorder", b"big")
        archive.writestr("a/data/0", struct.pack(">2f", 1.5, -2))
        archive.writestr("a/version", b"3\n")
    assert read_checkpoint(path).tensor("w").tolist() == [1.5, -2]


def test_missing_tensor_names_the_nearest(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "c.pth", {"conv1.weight": torch.ones(1)}))
    with pytest.raises(UnsupportedModel, match=r"'conv1\.weigth'.*'conv1\.weight'"):
        checkpoint.tensor("conv1.weigth")


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (torch.ones(2), "a Tensor"),
        ([torch.ones(2)], "a list"),
        ({}, "empty dict"),
        ({"epoch": 3, "optimizer": {"state": torch.ones(1)}}, "the keys epoch, optimizer"),
        ({0: torch.ones(1)}, "the key 0"),
        ({"s": torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)}, "sparse"),
        ({"m": torch.ones(2, device="meta")}, "meta"),
    ],
)
@pytest.mark.parametrize("container", ["torch zip", "torch legacy"])
def test_readable_but_no_weights_for_us(
    tmp_path: Path, root: object, expected: str, container: str
) -> None:
    path = save(tmp_path / "c.pth", root, container)
    with pytest.raises(UnsupportedModel, match=expected) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)


def test_complex_weights_are_not_taken_for_real(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(2, 2, dtype=torch.complex64)}, tmp_path / "c.pth")
    with pytest.raises(UnsupportedModel, match=r"'conv1\.weight' holds complex numbers"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantized_tensor_is_unsupported(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(UnsupportedModel, match="quantized"):
        read_checkpoint(save(tmp_path / "c.pth", {"w": tensor}))


def test_new_dtype_in_an_old_container_is_unsupported(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", {"w": torch.arange(3).to(torch.uint16)}, "torch legacy")
    with pytest.raises(UnsupportedModel, match="uint16"):
        read_checkpoint(path)


def test_tensor_with_attributes_is_unsupported(tmp_path: Path) -> None:
    tensor = torch.ones(2)
    tensor.note = "mine"
    with pytest.raises(UnsupportedModel, match="attributes"):
        read_checkpoint(save(tmp_path / "c.pth", {"w": tensor}))


def test_flatten_refuses_colliding_and_endless_keys() -> None:
    path = Path("c.pth")
    with pytest.raises(InputError, match=r"'a\.b' twice"):
        flatten_state({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, path)
    endless: dict[str, object] = {"w": torch.ones(1)}
    endless["again"] = endless
    with pytest.raises(UnsupportedModel, match="nested too deeply"):
        flatten_state(endless, path)


def test_real_product_quantized_files(shared: Path) -> None:
    for name in ("resnet18_large_blocks.pth", "resnet18_small_blocks.pth"):
        checkpoint = read_checkpoint(shared / "checkpoints" / name)
        assert checkpoint.container == "torch legacy"
        assert checkpoint.values["layer1.0.conv1.k"] == 3
        assert checkpoint.tensor("fc.assignments").dtype == torch.int16
        assert checkpoint.tensor("fc_bias.bias").shape == (1000,)
        assert all(tensor.device.type == "cpu" for tensor in checkpoint.tensors().values())


def test_real_binary_files(shared: Path) -> None:
    found = sorted((shared / "fixtures").glob("*/*.pth.tar"))
    assert len(found) >= 7
    for path in found:
        checkpoint = read_checkpoint(path)
        assert not any(key.startswith("module.") for key in checkpoint.values)
        assert len(checkpoint.tensors()) >= 50
    rbnn = read_checkpoint(shared / "fixtures" / "rbnn_resnet20" / "checkpoint.pth.tar")
    assert rbnn.metadata["model"] == "resnet20_1w1a"


def test_reading_leaves_the_file_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "c.pth", small_state())
    before, content = path.stat(), path.read_bytes()
    read_checkpoint(path).tensor("0.weight").zero_()
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == before.st_mtime_ns
