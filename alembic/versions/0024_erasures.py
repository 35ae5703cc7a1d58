"""A person's events are erased: what is left of one says so, and an erasure says how far it is and what it found.

The column is added without touching a row; a version that is still running shows such an event with `data` null.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE event ADD COLUMN IF NOT EXISTS erased_at timestamptz")
    op.execute("""
        CREATE TABLE erasure (
            id text CONSTRAINT pk_erasure PRIMARY KEY,
            status text NOT NULL
                CONSTRAINT ck_erasure_status CHECK (status IN ('searching', 'following', 'settling', 'done')),
            kind text NOT NULL CONSTRAINT ck_erasure_kind
                CHECK (kind IN ('phone', 'email', 'contact', 'user', 'call', 'installation')),
            pattern_sealed text,
            owner text,
            installation_id text,
            position bigint NOT NULL,
            last_position bigint,
            searched bigint NOT NULL DEFAULT 0,
            erased bigint NOT NULL DEFAULT 0,
            parked bigint NOT NULL DEFAULT 0,
            delivered bigint NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL DEFAULT now(),
            ended_at timestamptz,
            due_at timestamptz,
            lease_number bigint NOT NULL DEFAULT 0
        )
    """)
    op.execute("CREATE INDEX ix_erasure_due_at ON erasure (due_at) WHERE due_at IS NOT NULL")
    op.execute("CREATE INDEX ix_erasure_owner_id ON erasure (owner, id)")
    op.execute("""
        CREATE TABLE erasure_part (
            erasure_id text NOT NULL
                CONSTRAINT fk_erasure_part_erasure_id_erasure REFERENCES erasure (id) ON DELETE CASCADE,
            first bigint NOT NULL,
            day text NOT NULL,
            positions bigint[] NOT NULL,
            CONSTRAINT pk_erasure_part PRIMARY KEY (erasure_id, first)
        )
    """)
    op.execute("""
        CREATE TABLE erasure_call (
            erasure_id text NOT NULL
                CONSTRAINT fk_erasure_call_erasure_id_erasure REFERENCES erasure (id) ON DELETE CASCADE,
            fingerprint bytea NOT NULL,
            CONSTRAINT pk_erasure_call PRIMARY KEY (erasure_id, fingerprint)
        )
    """)


def downgrade() -> None:
    op.execute("DROP TABLE erasure_call")
    op.execute("DROP TABLE erasure_part")
    op.execute("DROP TABLE erasure")
    op.execute("ALTER TABLE event DROP COLUMN erased_at")
