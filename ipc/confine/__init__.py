"""System call filters from text policies, for backends and for the core alike (neither room may import the other)."""
