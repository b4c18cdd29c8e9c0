"""Pictures and videos in, files out: many at a time, resumed where a run stopped."""
