"""What development and tests run against instead of the real thing."""
