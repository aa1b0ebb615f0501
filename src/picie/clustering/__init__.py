"""K-means over pixel features, which produces the pseudo-labels (paper, section 3.1)."""
