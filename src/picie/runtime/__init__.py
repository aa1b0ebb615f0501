"""The machine and the run's folder: device, processes, files, records, random numbers."""
