"""Uses of a trained run: prediction, search, export."""
