"""Training: the epoch loop and its parts."""
