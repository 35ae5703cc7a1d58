"""Imported last by a process that others are forked off: what it has read so far is no garbage, in none of them.

Their collectors would walk through all of it, and write into pages that are shared otherwise.
"""

import gc

gc.collect()
gc.freeze()
