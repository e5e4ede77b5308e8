"""From objects to a disk as it was: timelines, points, views, and restores."""
