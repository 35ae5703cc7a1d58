"""Where events go: HTTP destinations and brokers, and what comes of an attempt."""
