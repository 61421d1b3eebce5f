"""The search for a plan: what it costs, how far it is from dense, and which one is better."""
