"""A run of an agent, or several, as one page with curves, tables and films."""
