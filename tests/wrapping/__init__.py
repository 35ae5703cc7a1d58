"""Keys that a key service has wrapped."""
