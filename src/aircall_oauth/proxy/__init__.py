"""Aircall's Public API for the partner's systems, asked as an installation."""
