"""What every command shares: errors, exit status, progress, image files, where to write."""
