"""Figures that are promised, as ratios to a peer measured in the same run."""
