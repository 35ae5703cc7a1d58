"""Installations: connected by an Aircall admin, kept up, disconnected."""
