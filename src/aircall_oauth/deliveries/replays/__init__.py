"""Replays: a window of the log delivered once more to one subscription, beside its live reader."""
