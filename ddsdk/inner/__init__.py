"""What happens inside a student: ordinary training, in micro-batches."""
