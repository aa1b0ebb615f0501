"""What the values of a label map mean: names, colours and other clusters from the same features."""
