"""The operator's tools: a diagnosis, measurements, repairs."""
