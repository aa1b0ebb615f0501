"""The command line: one file a command group, one plain function a command."""
