"""The training engine: it knows the protocol of a detector, never a concrete one."""
