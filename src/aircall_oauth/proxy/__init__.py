"""The partner's systems ask Aircall through us."""
