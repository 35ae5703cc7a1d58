"""An Aircall admin connects, and leaves."""
