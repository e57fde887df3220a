"""Attacks on a set or on what makes it: can they tell who was among the real data? Passing one proves nothing."""
