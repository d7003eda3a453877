"""The steps of a run. Each asks only for what the ledger lacks, and can be stopped and taken up at any batch."""
