"""What builds, runs, tests and measures the project; nothing here is part of the product."""
