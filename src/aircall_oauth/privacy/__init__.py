"""What is held about people: shown to the customer it belongs to, and erased."""
