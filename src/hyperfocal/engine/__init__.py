"""The training engine, which uses only the interface of detectors, never a concrete one."""
