"""ResNets: rows and columns of their feature maps leave, where transformers lose tokens."""
