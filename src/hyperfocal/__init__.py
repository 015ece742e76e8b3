"""hyperfocal."""
