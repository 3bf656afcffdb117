"""Shared code of the commands: flags, TOML files, recipes and timing."""
