"""The console: pages for operators and support people, on a port of their own."""
