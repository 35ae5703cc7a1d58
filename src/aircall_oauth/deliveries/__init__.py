"""Deliveries: subscriptions of the partner's systems, and the readers that deliver the log's events to them."""
