"""The two views of an image: where invariance and equivariance live (paper, section 3.2)."""
