"""Internals that the losses share; not for use outside the package."""
