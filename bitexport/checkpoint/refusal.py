"""How this room says no: one line that names the file, whatever the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bitexport.errors import BitexportError, InputError, UnsupportedModel

__all__ = ["AGAIN", "RESAVE", "decline", "refuse", "refuse_global", "shown"]

AGAIN = "The file is damaged or incomplete: copy or download it again."
RESAVE = (
    "Where you trust its origin, load it with the code that wrote it and save the weights "
    "alone: torch.save(model.state_dict(), PATH)."
)

_UNSUPPORTED: Final = {
    "torch._tensor._rebuild_from_type_v2": "a tensor subclass, or a tensor with Python attributes",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of a foreign device",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of a foreign device",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no values",
    "torch._utils._rebuild_parameter_with_state": "a parameter with Python attributes",
    "torch._utils._rebuild_qtensor": "a quantized tensor",
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor subclass",
    **{
        f"torch.{name}Storage": "a quantized tensor"
        for name in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "QUInt2x4")
    },
}
_MODEL_MODULES: Final = ("torch.nn.modules.", "torch.nn.parallel.", "torchvision.models.")


def shown(text: object, limit: int = 100) -> str:
    """``text`` made safe for a terminal and a log: one short line of printable characters.

    Names come out of hostile files, so they may hold escape sequences or megabytes.
    """
    whole = str(text)
    short = whole if len(whole) <= limit else whole[: limit - 3] + "..."
    return "".join(char if char.isprintable() else "?" for char in short)


def decline(path: Path, what: str, *, got: object, expected: object, fix: str) -> UnsupportedModel:
    """The error to raise for a sound file whose content we have no use for; see ``refuse``."""
    return UnsupportedModel(_named(path, what), got=shown(got, 300), expected=expected, fix=fix)


def refuse(path: Path, what: str, *, got: object, expected: object, fix: str = AGAIN) -> InputError:
    """The error to raise for a file that is unreadable, damaged or hostile.

    Args:
        path: The file.
        what: What is wrong with it, after its name.
        got: What was found; shortened and stripped of control characters.
        expected: What would have been right.
        fix: The next step for the user.
    """
    return InputError(_named(path, what), got=shown(got, 300), expected=expected, fix=fix)


def refuse_global(path: Path, name: str, *, is_root: bool) -> BitexportError:
    """The error for a pickle that asks for something which is not in the table."""
    special = _UNSUPPORTED.get(name)
    if special is not None:
        return decline(
            path,
            f"holds {special}",
            got=name,
            expected="plain dense tensors",
            fix=RESAVE,
        )
    if name.startswith(_MODEL_MODULES) or is_root:
        what = "its pickle holds a whole Python object (a model?), whose code was not run"
    else:
        what = "its pickle asks for code beyond plain tensors, which was not run"
    return refuse(path, what, got=name, expected="a state dict of plain tensors", fix=RESAVE)


def _named(path: Path, what: str) -> str:
    return f"{shown(path, 1000)}: {what}"
