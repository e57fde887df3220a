"""Applications of distilled data: one adapter for each library that ddsdk works with.

Importing this package loads no library. Each integration has an extra of its name: ``pip install 'ddsdk[continual]'``.
"""
