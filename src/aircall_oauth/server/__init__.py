"""The two processes: the web application and the worker."""
