"""The network f: backbone, FPN decoder, and the extractor that joins them."""
