"""The paper's mathematics: rewards, advantages, losses, batching. numpy and torch only; no Ray, no I/O."""
