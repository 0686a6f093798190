"""The daily flow, its command line and its ledger."""
