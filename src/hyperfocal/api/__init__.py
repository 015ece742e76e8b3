"""The Python interface of `import hyperfocal`, built on the same engine as the commands."""
