"""Print the op reference, docs/ops.md, from the op table."""

from __future__ import annotations

from bitexport.ops.bodies import OPSET, function_for
from bitexport.ops.table import DOMAIN, OP_VERSION, OPS, PLUGIN_ATTRIBUTES, Op

_HEAD = f"""\
# Op reference

The custom ops of the domain `{DOMAIN}`, version {OP_VERSION}, in files of opset {OPSET}. Written by
`python docs/op_reference.py > docs/ops.md` from `bitexport/ops/table.py`.

- T is float32 or float16, the same for X, R and Y. Scales and biases are float32.
- Sign words are int32. Bit i of word j is input channel 32 j + i of the group; a set bit is +1.
  A group starts at a word of its own; the bits past its last channel are 0 and count for nothing.
- Code words are int32 and hold the codes of one output channel in their order, the first in the
  lowest bits. Code b of a row stands for the weights b d to (b + 1) d of the flattened
  (Ci/group, kh, kw).
- Padding comes after the sign: a padded tap contributes 0.
- Signs are +1 and -1, of type T and in the ordinary shape; what is no op of these tables must not
  read them, nor may they leave the model. Our CPU kernels, which run all of these ops or none, hand
  on a word for every 32 of them instead, at the begin of the tensor.
- Every node carries `{"`, `".join(f'{k}="{v}"' for k, v in PLUGIN_ATTRIBUTES.items())}`
  besides the attributes below, and its op's function body travels with the file: a runtime
  without a kernel for the op runs the body.
"""


def _section(op: Op) -> str:
    inputs = [f"| {i.name} | {i.dtype} | `{i.shape}` | {i.meaning} |" for i in op.inputs]
    attributes = [
        f"| {a.name} | {'int' if a.count == 0 else f'int[{a.count}]'} | {a.meaning} |"
        for a in op.attributes
    ]
    operators = sorted({node.op_type for node in function_for(op)})
    lines = [
        f"## {op.name}",
        "",
        f"{op.summary[0].upper()}{op.summary[1:]}.",
        "",
        f"    {op.formula}",
        "",
        "| input | type | shape | meaning |",
        "|---|---|---|---|",
        *inputs,
        "",
        "| attribute | type | meaning |",
        "|---|---|---|",
        *attributes,
        "",
        f"Standard operators of its body: {', '.join(operators)}.",
    ]
    return "\n".join(lines)


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join([_HEAD, "\n\n".join(map(_section, OPS)), ""])


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
