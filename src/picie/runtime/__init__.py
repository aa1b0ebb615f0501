"""Devices, processes, the files in a run folder, and random numbers."""
