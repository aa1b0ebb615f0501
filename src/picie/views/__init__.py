"""The two views of an image, with their invariance and equivariance (paper, section 3.2)."""
