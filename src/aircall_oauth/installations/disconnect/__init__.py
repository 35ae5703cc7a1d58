"""An installation ends: by its owner, at Aircall, or all at once."""
