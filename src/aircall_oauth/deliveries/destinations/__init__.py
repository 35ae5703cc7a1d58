"""Destinations: HTTP addresses and brokers that events are delivered to, and the outcomes of attempts."""
