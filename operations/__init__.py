"""What may run and what may serve: the ledger of runs, kept beside the data."""
