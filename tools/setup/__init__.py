"""`make setup`: everything between a fresh clone and a program that runs, done once."""
