"""The log of events: what Aircall sends is received and kept; the partner's systems read it."""
