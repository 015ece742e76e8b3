"""Shared internals of the losses; not for use outside the package."""
