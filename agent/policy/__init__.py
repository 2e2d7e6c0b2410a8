"""Serving trained policies: checkpoints without pickle, batched inference, versions, export."""
