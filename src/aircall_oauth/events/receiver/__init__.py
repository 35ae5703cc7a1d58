"""Receives events from Aircall: endpoint, body, envelope, inbox, and the writers that commit to the log."""
