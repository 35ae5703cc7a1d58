"""Windows in which an installation could not receive, and their back-fill."""
