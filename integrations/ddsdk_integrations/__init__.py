"""Roads from distilled data to where it pays off; each integration needs an extra of its own."""
