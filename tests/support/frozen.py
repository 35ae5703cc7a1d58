"""Imported last by a process that others are forked off: what it has read so far is no garbage, in none of them.

Their collectors would walk through all of it, and write into pages that are shared otherwise. Each would map the tables
anew, too.
"""

import gc

from sqlalchemy.orm import configure_mappers

configure_mappers()
gc.collect()
gc.freeze()
