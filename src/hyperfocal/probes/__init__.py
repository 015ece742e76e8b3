"""Quantities measured by running a trained detector over a split, for the papers' figures."""
