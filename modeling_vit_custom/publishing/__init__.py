"""Publishing: what is staged, checked, described and uploaded to the Hub."""
