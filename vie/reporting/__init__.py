"""What reports of all rooms share: how figures are drawn, and pages that need no other file."""
