"""Models on a device: the Engine protocol, its three implementations, chat templates, and swapping weights.

Owns everything between text and log-probabilities. Knows no RPC and no prompt of any method.
"""
