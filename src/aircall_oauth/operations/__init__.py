"""What the operator measures and mends."""
