"""What is done with a trained run: predict, search, export."""
