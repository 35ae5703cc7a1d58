"""Measurements: this service against something else, alternating, in one run. `make bench`."""
