"""The parts of the example `train_moe_lm.py`; read that file first, then model.py."""
