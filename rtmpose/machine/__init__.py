"""The machine: its processor and GPU, what else uses them, and the versions of what runs on it."""
