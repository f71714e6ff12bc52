"""Target, loss, gradient, step, snapshot, checkpoint. Never imports rollout; runs without Ray."""
