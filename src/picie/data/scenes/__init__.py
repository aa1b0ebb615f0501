"""A procedural dataset with exact labels."""
