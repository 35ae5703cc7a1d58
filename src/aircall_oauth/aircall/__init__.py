"""What we know about Aircall. Nothing else in this service names its addresses or reads its JSON."""
