"""aircall-oauth: holds a software company's connections to Aircall."""

from importlib.metadata import version

__version__ = version("aircall-oauth")
