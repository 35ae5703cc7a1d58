"""PostgreSQL: connections, sealed secrets, the log's days, and the tables."""
