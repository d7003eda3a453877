"""The coordinator: the closed loop, its ledger, formats, policies and recipes. Runs in the client; no torch."""
