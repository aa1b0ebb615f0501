"""K-means over pixel features and the pseudo-labels that come of it (paper, section 3.1)."""
