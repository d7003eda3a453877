"""The embedding service: vectors of samples from the model's own hidden states, in LanceDB, and their neighbourhoods.

`servicer.py` adapts gRPC; `core.py` says what is read of a sample and what counts as a result; `binarising.py` makes it
features and `selecting.py` runs selections; `neighbors.py` and `coverage/` are the mathematics. `store.py` and
`calibrations.py` say what is kept, `tables.py` is the only place that knows LanceDB.
"""
