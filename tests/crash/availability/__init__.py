"""Drills of availability: what becomes of events while PostgreSQL fails in one of the ways it does, and after."""
