"""The training service: supervised fine-tuning runs as resources.

The server side (`servicer.py`, `supervisor.py`, `runs.py`) keeps runs and their events and starts one worker process
at a time; it imports neither torch nor transformers. The worker side (`worker.py`, then `sft.py` or
`fake_worker.py`) does the training and publishes the model.
"""
