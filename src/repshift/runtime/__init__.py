"""What happens while a compressed model runs: captured stream, intercepted attention, traces."""
