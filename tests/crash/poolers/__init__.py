"""The acceptance run through a pooler: everything the service does, with a real PgBouncer before PostgreSQL."""
