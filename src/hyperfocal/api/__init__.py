"""The Python interface: what `import hyperfocal` offers, on the same engine as the commands."""
