"""The command line: the one place where settings are read."""
