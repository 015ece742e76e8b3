"""Processes of a training: their start, sharded weights, and decisions that they take together."""
