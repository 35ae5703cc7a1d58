"""Brokers as destinations: NATS JetStream, RabbitMQ, Kafka. `docs/brokers.md` says what goes out."""

from aircall_oauth.deliveries.destinations.brokers.kinds import KAFKA, KINDS, NATS, RABBITMQ, BrokerKind

__all__ = ["KAFKA", "KINDS", "NATS", "RABBITMQ", "BrokerKind"]
