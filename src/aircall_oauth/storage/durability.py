"""What makes a commit wait until it lasts: `DURABLY` for behind SELECT, in a transaction; `NEVER_OFF` for a session."""

# For a statement: makes its commit wait for the durability that the database is configured for, and at least for the
# disk, even if the statement changes nothing. Without the message, a transaction that wrote nothing would wait neither
# for the disk nor for a standby, whatever it read. Set per transaction, so that a setting that is raised during the
# session counts too.
DURABLY = """
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true),
    pg_logical_emit_message(true, 'aircall-oauth', '')
"""
# For a session: its commits wait for the disk, even if a reload of the server's configuration switches that off.
NEVER_OFF = """
    SELECT set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)
"""
