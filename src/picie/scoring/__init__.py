"""How well: counts, matchings, scores and their intervals, and what a score is to be read beside."""
