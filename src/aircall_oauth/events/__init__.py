"""Aircall tells us something; the partner reads it."""
