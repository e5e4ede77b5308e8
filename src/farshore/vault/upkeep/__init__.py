"""What keeps a vault small, cheap and true: retention, merging, collection, the scrub."""
