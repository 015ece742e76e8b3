"""Fine-tuning: a detector starts with the weights of another one."""
