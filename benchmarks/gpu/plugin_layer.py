"""A TensorRT plugin on torch's buffers and stream, through plugins/benchmarks/trt_layers.h."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import TracebackType

import torch
import torch.nn.functional as F

from bitexport.ops.nodes import NodeData

__all__ = ["LayerFailure", "PluginLayer", "PluginLibrary"]

VECTOR = 8  # channels that TensorRT's HWC8 keeps together


class LayerFailure(RuntimeError):
    """A plugin refused, or a launch failed; the message is the plugin's."""


class _Sizes(ctypes.Structure):
    _fields_ = (
        ("input", ctypes.c_int32 * 4),
        ("weight", ctypes.c_int32 * 4),
        ("strides", ctypes.c_int32 * 2),
        ("pads", ctypes.c_int32 * 4),
        ("dilations", ctypes.c_int32 * 2),
        *((name, ctypes.c_int32) for name in ("group", "entries", "depth", "half", "nhwc8")),
    )


class PluginLibrary:
    """The library ``libbitexport_trt_layers.so``, or its double that computes on the host."""

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        for name, result, arguments in (
            ("layer_create", pointer, (ctypes.c_char_p, ctypes.POINTER(_Sizes))),
            ("layer_destroy", None, (pointer,)),
            ("layer_tactics", ctypes.c_int32, (pointer, pointer, ctypes.c_int32)),
            ("layer_workspace_bytes", size, (pointer,)),
            ("layer_enqueue", ctypes.c_int32, (pointer, ctypes.c_int32, *(pointer,) * 4)),
            ("layer_error", ctypes.c_char_p, ()),
        ):
            function = getattr(self.functions, name)
            function.restype, function.argtypes = result, arguments

    def failure(self) -> LayerFailure:
        """What the last failed call of this thread says."""
        return LayerFailure(self.functions.layer_error().decode())


class PluginLayer:
    """One node on inputs of one shape, with its constants on the device.

    Args:
        library: Where the plugins are.
        node: The op's constants and attributes.
        shape: X's shape, [N, Ci, H, W] or [N, Ci].
        dtype: float32 or float16, of X, R and Y.
        nhwc8: Whether images have their channels last, padded to a multiple of 8.
        device: Of the buffers; the CPU for the double.
    """

    def __init__(
        self,
        library: PluginLibrary,
        node: NodeData,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        nhwc8: bool,
        device: str,
    ) -> None:
        self.library, self.device, self.dtype, self.nhwc8 = library, device, dtype, nhwc8
        self.inputs = [declared.name for declared in node.op.inputs]
        self.constants = {
            name: torch.from_numpy(array.copy()).to(device).contiguous()
            for name, array in node.tensors.items()
        }
        sizes = self._sizes(node, shape)
        self.handle = library.functions.layer_create(node.op.name.encode(), ctypes.byref(sizes))
        if not self.handle:
            raise library.failure()
        room = library.functions.layer_workspace_bytes(self.handle)
        self.workspace = torch.empty(max(1, room), dtype=torch.uint8, device=device)

    def _sizes(self, node: NodeData, shape: tuple[int, ...]) -> _Sizes:
        sizes = _Sizes()
        sizes.input[:] = (*shape, 1, 1)[:4]
        wshape = node.attributes["wshape"]
        sizes.weight[:] = (*wshape, 1, 1)[:4]
        sizes.strides[:] = node.attributes.get("strides", (1, 1))
        sizes.pads[:] = node.attributes.get("pads", (0,) * 4)
        sizes.dilations[:] = node.attributes.get("dilations", (1, 1))
        sizes.group = node.attributes.get("group", 1)
        if "CB" in node.tensors:
            sizes.entries, sizes.depth = node.tensors["CB"].shape
        sizes.half, sizes.nhwc8 = self.dtype == torch.float16, self.nhwc8
        return sizes

    def __enter__(self) -> PluginLayer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.library.functions.layer_destroy(self.handle)

    def tactics(self) -> list[int]:
        """The numbers of the kernels that take this layer, the likely fastest first."""
        room = (ctypes.c_int32 * 256)()
        count = self.library.functions.layer_tactics(self.handle, room, len(room))
        return list(room[:count])

    def to_memory(self, values: torch.Tensor) -> torch.Tensor:
        """Activations [N, C, H, W] or [N, C] as the plugin reads them."""
        values = values.to(self.device, self.dtype)
        if not self.nhwc8:
            return values.contiguous()
        last = values.permute(0, 2, 3, 1)
        return F.pad(last, (0, -last.shape[-1] % VECTOR)).contiguous()

    def from_memory(self, memory: torch.Tensor, channels: int) -> torch.Tensor:
        """Inverse of :meth:`to_memory`."""
        return memory[..., :channels].permute(0, 3, 1, 2) if self.nhwc8 else memory

    def enqueue(
        self, tactic: int, activations: dict[str, torch.Tensor], y: torch.Tensor, stream: int = 0
    ) -> None:
        """Launch on a stream; ``activations`` holds X, and R where the op has one, as in memory."""
        tensors = self.constants | activations
        pointers = [tensors[name].data_ptr() for name in self.inputs]
        array = (ctypes.c_void_p * len(pointers))(*pointers)
        failed = self.library.functions.layer_enqueue(
            self.handle, tactic, array, y.data_ptr(), self.workspace.data_ptr(), stream
        )
        if failed:
            raise self.library.failure()
