"""Agents in environments: offline data first, then their own episodes; evaluated, kept, and continued exactly."""
