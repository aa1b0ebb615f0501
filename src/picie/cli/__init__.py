"""The command line: one file per command group and one plain function per command."""
