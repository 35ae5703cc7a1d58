"""Keeps each installation and its webhook at Aircall as they should be."""
