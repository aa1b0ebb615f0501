"""Names for the segments of a run, other clusters without training, and advice on their number."""
