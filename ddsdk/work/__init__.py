"""Work that is cut into units: each is computed once, by whoever gets there first, and kept as one file."""
