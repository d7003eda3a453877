"""The ledger's schema: numbered SQL files, applied in order and never edited once released."""
