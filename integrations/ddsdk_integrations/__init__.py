"""Where distilled data pays off: thin adapters between ddsdk and one library each.

Nothing is imported here: each integration asks for its own extra, such as ``pip install 'ddsdk[continual]'``.
"""
