"""Time and memory at scale: full queues, many classes, data larger than memory."""
