"""A run, or several, as one page with plots and tables."""
