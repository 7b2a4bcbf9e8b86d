"""Tests with a real kernel in the guest."""
