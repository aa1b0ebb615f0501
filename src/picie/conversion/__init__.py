"""`picie convert`: predictions in the formats of annotation tools, training tools and GIS."""
