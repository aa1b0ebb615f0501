"""Check, download and curate the datasets of the field."""
