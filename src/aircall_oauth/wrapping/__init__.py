"""Keys that a key service keeps wrapped: how a setting says so, and how the services are asked."""
