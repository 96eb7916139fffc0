"""Training: data, arguments, the flow, checkpoints."""
