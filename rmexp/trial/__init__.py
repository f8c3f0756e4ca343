"""One trial: the schema of its config, run_trial, and the record it leaves."""
