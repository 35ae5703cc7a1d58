"""Ends installations: for their owner, after an uninstall at Aircall, or all at once."""
