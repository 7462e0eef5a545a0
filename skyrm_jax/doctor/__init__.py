"""Is this checkpoint read the same everywhere?"""
