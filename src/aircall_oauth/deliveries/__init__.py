"""The partner's systems are told: push subscriptions, readers of the log that deliver."""
