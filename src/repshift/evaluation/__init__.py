"""What measures, reproduces and prepares. The library imports none of it."""
