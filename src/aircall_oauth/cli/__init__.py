"""The command line; only here settings are read from the environment."""
