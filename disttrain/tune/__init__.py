"""Searches for good settings: Ray places, schedules and stops trials, each of which is an ordinary `disttrain train`.

Only modules whose names begin with `ray_` import Ray. The truth about a search is its journal (`journal.py`), from
which `history.py` knows every trial; nothing that Ray writes is ever read again.
"""
