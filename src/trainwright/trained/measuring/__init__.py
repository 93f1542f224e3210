"""How well a trained model does on data, alone and beside others."""
