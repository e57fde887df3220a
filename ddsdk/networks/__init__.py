"""Networks for small images, by name."""
