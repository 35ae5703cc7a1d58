"""The console: who may enter, what each page shows, and what a browser makes of it."""
