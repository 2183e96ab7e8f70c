"""The records of a run in W&B and MLflow: a process for each reads metrics.jsonl and sends what the tracker lacks."""
