"""Actor-critic agents: tensors in, tensors out."""
