"""What the commands share: flags, TOML files, recipes and timing."""
