"""The embedding service: vectors of samples from the model's own hidden states, in LanceDB, and their neighbourhoods.

`servicer.py` adapts gRPC, `core.py` says what is embedded and what counts as a result, `neighbors.py` is the
mathematics, `store.py` the only place that knows LanceDB.
"""
