"""PostgreSQL: connections, migrations, sealed secrets, the log's days, and the tables."""
