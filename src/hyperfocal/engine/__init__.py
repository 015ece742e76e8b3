"""Training, evaluation and prediction, through the interface that all detectors have."""
