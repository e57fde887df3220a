"""Supplies of students: fresh ones, and ones that train between the steps."""
