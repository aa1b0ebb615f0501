"""Training: the epoch loop and what it needs."""
