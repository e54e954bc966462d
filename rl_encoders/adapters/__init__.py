"""Encoders inside other libraries' agents: a module for each library, which is imported with it."""
