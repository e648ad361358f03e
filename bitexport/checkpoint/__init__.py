"""The only room that opens checkpoints: vet the file, read it, flatten it.

Nothing in a checkpoint is ever run. A file is vetted before torch sees it: its container
(``container``, ``archive``, ``legacy``), then the pickle inside, opcode by opcode, together
with every size that it claims (``pickles``). Only then does ``reader`` read the tensors, and
``state`` turns whatever layout they came in into one flat mapping.
"""

from __future__ import annotations

from bitexport.checkpoint.reader import Checkpoint, read_checkpoint
from bitexport.checkpoint.state import Scalar, flatten_state

__all__ = ["Checkpoint", "Scalar", "flatten_state", "read_checkpoint"]
