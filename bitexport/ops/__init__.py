"""The custom ops: their table, their function bodies, and how a layer becomes a node."""
