"""`make bench`: our figures as ratios to a peer's, measured in the same run on the same machine."""
