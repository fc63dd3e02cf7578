"""What local mode starts from with nothing to download: problems, a tokenizer, a warm policy and a reward model.

The door is `artifacts.ensure_starter`. Sits above the other parts: may import `reward_model` and `data`.
"""
