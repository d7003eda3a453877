"""Choosing a core set: which few samples cover what the model's neurons do on all of them. Pure mathematics.

The objective is log-coverage of active neurons, in the style of MADS (arXiv 2605.30857), picked greedily. From
activations to a core set, a file each:

    moments      what is usual for a neuron: mean, deviation, range
    binarise     from a sample's pooled activations to its active features
    features     the samples' active features, packed
    increments   how much another sample with the same feature is worth
    objectives   coverage of features; facility: coverage of vectors
    pool         what may be picked: budget, groups, rows selected before
    greedy       picking: naive, lazy, stochastic, partitioned
    spread       baselines without an objective: k-center, the representation filter
    curve        what an order covers, and what random ones do
    guards       whether it was picked by length, or by hub neurons
    witness      for each row that was dropped the kept row that stands for it

`kernels.py` is the only place that knows numba, `compiled.py` drives its loops, `vectors.py` gives exact cosines.
"""
