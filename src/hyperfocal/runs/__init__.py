"""A run: its folder, the files in it, and the checks before they are written or resumed from."""
