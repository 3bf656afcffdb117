"""Model files: reading and writing them, and translating weight names between layouts."""
