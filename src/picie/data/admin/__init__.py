"""Check, download and curate benchmark datasets."""
