"""The elastic agent: one per node, it starts the node's ranks, and starts them again when one was lost."""
