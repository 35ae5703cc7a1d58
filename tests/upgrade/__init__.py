"""The version before this one, and this one, on the same data."""
